"""Searches of cells: which cells are one, how they grow, mixtures, and two whole small searches."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from io import StringIO
from itertools import permutations
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from rich.console import Console
from support.pictures import grey, write_classes
from torch import nn

import vitrail
from vitrail.engines import onnx
from vitrail.errors import ConfigError, ExportError
from vitrail.jobs import growing
from vitrail.jobs.search import search
from vitrail.jobs.searched import want
from vitrail.layers.binary import Plain, Real
from vitrail.methods import BinaryWeights, ScheduledDropPath
from vitrail.methods.binary_weights import Staged
from vitrail.models import bats, create, pnasnet
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.run.budget import Budget
from vitrail.search.costs import Cost
from vitrail.search.mixture_cost import mixture_cost
from vitrail.search.predictor import fitted
from vitrail.search.price import Dual
from vitrail.search.relaxed import Priced, Relaxed
from vitrail.search.spaces import Images, space_of
from vitrail.search.spaces.binary_counts import operations
from vitrail.search.spaces.blocks import canonical, grown
from vitrail.search.strategies import Found, Ground, Nsga, Progressive
from vitrail.search.strategies.differentiable import Differentiable, probabilities
from vitrail.search.supernets.bats import CHOICES, EDGES, MIXED, NODES
from vitrail.training.batch import Batch
from vitrail.training.interrupt import Interrupted
from vitrail.training.objective import Objective, Step

PNAS: Any = space_of("pnas", Images((28, 28), 1, 10))
BATS: Any = replace(space_of("bats", Images((12, 12), 1, 3)), shared_dim=4)


def test_there_are_136_cells_of_one_block():
    assert len({*grown((), 8)}) == 136 == len(PNAS.begun())


def test_every_way_to_name_a_cell_has_one_form():
    """Blocks in any order, and sides in any order, are one cell; another wiring is not."""
    blocks = (((0, 1), (1, 2)), ((0, 1), (1, 2)), ((2, 0), (3, 5)), ((3, 4), (1, 6)))
    forms = set()
    for order in permutations(range(4)):
        place = {0: 0, 1: 1} | {old + 2: new + 2 for new, old in enumerate(order)}
        moved = tuple(
            tuple((place[s], op) for s, op in reversed(blocks[old])) for old in order
        )  # fmt: skip
        if all(s < n + 2 for n, block in enumerate(moved) for s, _ in block):
            forms.add(canonical(moved))  # pyright: ignore[reportArgumentType]
    assert len(forms) == 1
    # One block twice is not two blocks of the same: it has other weights.
    once, twice = ((2, 0), (2, 0)), ((2, 0), (3, 0))
    assert canonical((*blocks[:2], once)) != canonical((*blocks[:2], twice))


def judge(genes, generation=0):
    """A score that a predictor can learn: the more 3x3 separable operations the better."""
    cell = PNAS.cell(genes)
    good = sum(op == 0 for block in cell for _, op in block) / (2 * len(cell))
    return Found(genes, 0.2 + 0.6 * good, 0.0, Cost(1, 1), generation)


def test_growth_finds_what_it_learned_to_expect():
    ground = Ground(PNAS, lambda genes: genes[2] != 1, seed=0)
    strategy, seen = Progressive(first=40, beam=3), []
    for generation, size in enumerate((40, 3)):
        proposed = strategy.propose(ground, seen, generation)
        assert len({*proposed}) == size and all(genes[0] == generation for genes in proposed)
        assert all(genes[2] != 1 and PNAS.canonical(genes) == genes for genes in proposed)
        seen += [judge(genes, generation) for genes in proposed]
    chance = [judge(PNAS.coded(cell)).score for cell in [*grown(PNAS.cell(seen[0].genes), 8)][::7]]
    assert sum(one.score for one in seen[40:]) / 3 > sum(chance) / len(chance) + 0.05
    assert strategy.propose(ground, seen, 5) == []
    ((blocks, pairs),) = strategy.foretold(ground, seen)
    assert blocks == 2 and [score for _, score in pairs] == [one.score for one in seen[40:]]


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_a_predictor_learns_and_is_the_same_again(kind):
    known = [(PNAS.cell(genes), judge(genes).score) for genes in PNAS.begun()[::4]]
    asked = [PNAS.cell(genes) for genes in PNAS.begun()[1::8]]
    some = fitted(known, (6, 8), kind=kind, members=2).predict(asked)
    assert some == fitted(known, (6, 8), kind=kind, members=2).predict(asked)
    truth = [judge(PNAS.coded(cell)).score for cell in asked]
    assert torch.tensor([some, truth]).corrcoef()[0, 1] > 0.5


def test_small_networks_are_of_the_same_cell():
    genes = PNAS.canonical((1, 0, 3, 1, 0, 2, 1, 1, 5, *(0,) * 12))
    small, whole = PNAS.small(genes), PNAS.config(genes)
    assert (small.genotype, small.concat) == (whole.genotype, whole.concat) and small.dim == 16
    assert whole.concat == (3,) and PNAS.count(small) != PNAS.count(whole)
    near = PNAS.fitted(lambda space: 1e6 * space.widest.dim / 8, 0, 3_000_000)
    assert near.widest.dim == 24


def test_wrong_settings_of_cells_say_so():
    for make, said in (
        (lambda: replace(PNAS, blocks=6), "blocks 6 of a cell are not 1 to 5"),
        (lambda: replace(PNAS, small_dim=4), "small_dim 4"),
        (lambda: replace(BATS, temperature=0.0), "temperature 0.0 is not above 0"),
        (lambda: replace(BATS, shared_dim=6), "a multiple of 4 channels"),
        (lambda: Progressive(beam=-1), "beam -1"),
        (lambda: want("pnas", "photos", {"alone": 8}, (), None), "--alone is of searches whose"),
    ):
        with pytest.raises(ConfigError, match=said):
            make()


def test_a_front_is_looked_for_the_same_way_again():
    """After any stop NSGA-II goes on with the same candidates, new and allowed each."""
    space: Any = space_of("autoformer", Images((28, 28), 1, 10))
    ground, strategy = Ground(space, lambda genes: genes[0] < 2, seed=1), Nsga(8, 3)
    runs = []
    for _ in range(2):
        seen: list[Found] = []
        for generation in range(3):
            proposed = strategy.propose(ground, seen, generation)
            assert 0 < len(proposed) <= 8 and all(genes[0] < 2 for genes in proposed)
            for genes in proposed:
                macs = space.count(space.config(genes)).macs
                seen.append(Found(genes, 1 / (1 + sum(genes)), 0.0, Cost(macs, 1), generation))
        assert len({one.genes for one in seen}) == len(seen)
        runs.append(seen)
    assert runs[0] == runs[1] and strategy.propose(ground, runs[0], 3) == []
    with pytest.raises(ConfigError, match="make no front"):
        Nsga(1)
    with pytest.raises(ConfigError, match="no strategy is called 'nsgaa'"):
        want("vitas", "photos", {"strategy": "nsgaa"}, (), None)
    with pytest.raises(ConfigError, match="--strategy nsga is of searches that look among"):
        want("bats", "photos", {"strategy": "nsga"}, (), None)
    asked = want("vitas", "photos", {"strategy": "nsga"}, ("evolve.population=6",), None)
    assert asked.looks() == Nsga(6, 20)


# ---- the final training ----------------------------------------------------------------


def test_paths_are_dropped_more_and_more():
    config = replace(pnasnet.SPACE.base, dim=8, depth=1, stem_cells=0, image=(12, 12), classes=3)
    model, method = create(config), ScheduledDropPath(0.4)
    method.check(model)
    method.apply(model)
    paths: list[Any] = [m for m in model.modules() if type(m).__name__ == "DropPath"]
    assert [path.rate for path in paths] == [0, 0, 0]
    method.before_step(model, Step(50, 100, 0.0))
    assert [path.rate for path in paths] == pytest.approx([0.2 / 3, 0.4 / 3, 0.2])
    with pytest.raises(ConfigError, match="there are none"):
        method.check(nn.Linear(2, 2))


def test_the_auxiliary_head_learns_and_goes():
    config = replace(
        pnasnet.SPACE.base, dim=8, depth=1, stem_cells=0, image=(12, 12), channels=1, classes=3,
        auxiliary=True,
    )  # fmt: skip
    model, image = create(config).train(), torch.randn(4, 1, 12, 12)
    first, second = model(image)
    assert first.shape == second.shape == (4, 3)
    loss = CrossEntropyLoss(auxiliary=0.4)
    batch: Batch = type("Batch", (), {"images": image, "targets": torch.tensor([0, 1, 2, 0])})()
    told = loss(lambda x: (first, second), batch, Step(0, 1, 0.0))["loss"]
    own = [nn.functional.cross_entropy(one, batch.targets) for one in (first, second)]
    assert told.item() == pytest.approx((own[0] + 0.4 * own[1]).item() / 1.4)
    model.eval()
    assert torch.equal(model.deployed()(image), model(image)) and model.auxiliary is None


def test_weights_become_binary_half_way():
    config = replace(
        bats.SPACE.base, dim=4, groups=4, cells=3, binary="sign", image=(8, 8), channels=1,
        classes=3,
    )  # fmt: skip
    model, method = create(config), BinaryWeights(0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method.check(model)
    method.apply(model)
    assert model.state_dict().keys() == before.keys()
    staged = next(m for m in model.modules() if isinstance(m, Staged))
    weight = torch.randn(4, 1, 3, 3)
    model.train()
    method.before_step(model, Step(4, 10, 0.0))
    assert torch.equal(staged(weight)[0], Real()(weight)[0])
    assert torch.equal(staged.eval()(weight)[0], Plain()(weight)[0])  # it is judged as it will be
    method.before_step(model.train(), Step(5, 10, 0.0))
    assert torch.equal(staged(weight)[0], weight.sign())
    with pytest.raises(ConfigError, match="this one has none"):
        method.check(nn.Linear(2, 2))


# ---- mixtures --------------------------------------------------------------------------


def test_a_mixture_that_has_decided_is_the_cell_itself():
    """With all weight on two edges of each node the shared network computes what is extracted."""
    torch.manual_seed(0)
    shared = BATS.supernet().double().eval()
    genes = tuple(i % len(gene.options) for i, gene in enumerate(BATS.genes))
    config = BATS.config(genes)
    tables = []
    for genotype in (config.normal, config.reduce):
        table = torch.zeros(len(EDGES), len(MIXED), dtype=torch.float64)
        table[:, -1] = 1
        for k, (name, state) in enumerate(genotype):
            table[EDGES.index((k // 2, state))] = 0
            table[EDGES.index((k // 2, state)), CHOICES.index(name)] = 1
        tables.append(table)
    image = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    shared.mixture = lambda: (tables[0], tables[1])
    model = shared.extracted(config).double()
    with torch.no_grad():
        assert (model(image) - shared(image)).abs().max() <= 1e-12
    assert BATS.strongest((tables[0].tolist(), tables[1].tolist())) == genes


def test_operations_of_signs_are_counted_apart():
    """By hand: the stem, what enters cells, pools and the head are real, or not counted at all."""
    space = BATS
    pool, wide = space.ends
    plain, dense = (operations(space.config(genes)) for genes in (pool, wide))
    assert plain.binary < dense.binary and plain.real == dense.real > 0
    for genes, done in ((pool, plain), (wide, dense)):
        assert done.binary + done.real == space.count(space.config(genes)).macs
    assert dense.weighed == dense.real + dense.binary / 64
    real = operations(replace(space.config(wide), binary="none"))
    assert (real.binary, real.real) == (0, dense.binary + dense.real)
    assert "of signs" in space.described(space.config(wide))["multiply-adds"]


def test_temperature_sharpens():
    cold, warm = (replace(BATS, temperature=t).supernet() for t in (0.2, 1.0))
    for one in (cold, warm):
        with torch.no_grad():
            one.architecture_normal.copy_(torch.arange(8.0).expand(len(EDGES), 8))
            one.architecture_reduce.zero_()
    assert cold.entropy() < warm.entropy() < math.log(8)


def test_the_strongest_that_is_allowed_comes_first():
    table = [[0.1] * 7 + [0.3]] * len(EDGES)
    likely = probabilities((table, table), NODES, len(CHOICES))
    assert [len(one) for one in likely] == [len(gene.options) for gene in BATS.genes]
    strongest = BATS.ends[0]
    strategy = Differentiable(strongest, likely, count=4)
    assert strategy.propose(Ground(BATS, lambda genes: True), [], 0)[0] == strongest
    found = strategy.propose(Ground(BATS, lambda genes: genes != strongest), [], 0)
    assert len({*found}) == 4 and strongest not in found
    assert strategy.propose(Ground(BATS, lambda genes: True), [], 1) == []


# ---- whole searches --------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Grey images of two classes, 28 x 28."""
    return write_classes(tmp_path_factory.mktemp("data") / "digits", {"a": 40, "b": 40}, grey)


@pytest.mark.slow
def test_cells_grow_stopped_and_resumed(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    out, console = tmp_path / "run", Console(file=StringIO())
    whole, made = growing.Growing._judged, []

    def judged(self, space, genes, steps):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(genes)
        return whole(self, space, genes, steps)

    monkeypatch.setattr(growing.Growing, "_judged", judged)
    sets = ("space.blocks=2", "grow.first=3", "grow.beam=2", "space.small_dim=8", "steps.batch=8")
    with pytest.raises(Interrupted, match=r"vitrail search pnas \S+ --resume --out"):
        search("pnas", digits, time="15s", out=out, settings=sets, console=console)
    monkeypatch.setattr(growing.Growing, "_judged", whole)
    run = search("pnas", digits, out=out, resume=True, console=console)
    found = json.loads((out / "found.json").read_text())
    growth = found["search"]["figures"]["growth"]
    assert growth["trained"] == [3, 2] and {one["predictor"] for one in growth["ranks"]} == {
        "mlp", "lstm",
    }  # fmt: skip
    assert found["search"]["figures"]["random"] == 5
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["model"]["auxiliary"] and recipe["methods"][0]["kind"] == "scheduled_drop_path"
    page = run.report.read_text()
    assert "cells of one block, two and so on" in page and "The network that was found" in page
    assert run.predict(str(digits / "a" / "000.png"))[0].ranked[0][0] in ("a", "b")
    assert not vitrail.create(out / "found.json").config.auxiliary


@pytest.mark.slow
def test_cells_are_learned_by_gradients(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    out, console = tmp_path / "run", Console(file=StringIO())
    run = search(
        "bats", digits, time="15s", out=out, console=console,
        settings=(
            "space.shared_dim=4", "space.found.dim=8", "space.found.cells=3", "steps.batch=8",
        ),
    )  # fmt: skip
    found = json.loads((out / "found.json").read_text())
    mixture = found["search"]["figures"]["mixture"]
    assert mixture["binary"] == "inputs" and mixture["edges"] == 16
    recipe = json.loads((out / "recipe.json").read_text())
    assert found["model"]["binary"] == "sign" == recipe["model"]["binary"]
    assert recipe["methods"][0]["kind"] == "binary_weights"
    assert "all operations on every edge" in run.report.read_text()
    assert vitrail.create(out / "found.json").config.normal


@pytest.mark.parametrize(("value", "turns"), [(1e-8, True), (0.1, False)])
def test_only_numbers_within_rounding_of_zero_turn_their_sign(value, turns):
    class Sign(torch.nn.Module):
        def forward(self, x):
            return x.sign().mean((1, 2))

    pixels = torch.full((1, 1, 4, 4), value)
    assert onnx._turns(Sign(), pixels, Sign()(pixels)) is turns


def test_signs_may_turn_but_not_many(monkeypatch):
    """One image in fifty may depart in another runtime, and no more."""
    config = replace(
        bats.SPACE.base, dim=4, groups=4, cells=3, binary="sign", image=(8, 8), channels=1,
        classes=3, auxiliary=False,
    )  # fmt: skip
    model = create(config).eval()
    labels: Any = type("L", (), {
        "normalised": lambda self, x: seen.expand(len(x), 1, 8, 8), "maps": False, "several": False,
    })()  # fmt: skip
    seen = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        right = model(seen).numpy()

    def file(wrong):
        count = iter(range(100))
        return lambda images: right + (0.01 if next(count) < wrong else 0)

    images = np.zeros((100, 8, 8, 1), np.uint8)
    with pytest.raises(ExportError, match="rounding turns no sign there"):
        onnx.compare(model, labels, file(1), images, lambda n: None)
    monkeypatch.setattr(onnx, "_turns", lambda *_: True)
    largest = onnx.compare(model, labels, file(2), images, lambda n: None)
    assert largest == pytest.approx(0.01, rel=1e-3)
    with pytest.raises(ExportError, match=r"of 3 logits differ .* one image in 50\)"):
        onnx.compare(model, labels, file(3), images, lambda n: None)


# ---- multipliers --------------------------------------------------------------------------


def _budget(share) -> Any:
    """A limit at a share of the way from the cheapest to the dearest cells."""
    small, large = (BATS.count(BATS.config(genes)).macs for genes in BATS.ends)
    return Budget(macs=int(small + share * (large - small)))


def test_a_mixture_knows_what_its_cells_cost():
    """The value is the count of the strongest cells, and the gradient makes them cheaper."""
    torch.manual_seed(0)
    budget = Budget(macs=900_000, params=20_000)
    mixed, cost = BATS.supernet(), mixture_cost(BATS, budget)
    excess = cost.excess(mixed)
    for _ in range(4):
        for one in (mixed.architecture_normal, mixed.architecture_reduce):
            nn.init.normal_(one)
        normal, reduce = (table.tolist() for table in mixed.mixture())
        counts = BATS.count(BATS.config(BATS.strongest((normal, reduce))))
        share = max(counts.macs / 900_000, counts.params / 20_000)
        excess = cost.excess(mixed)
        assert float(excess.detach()) == pytest.approx(share - 1, abs=1e-5)
    excess.backward()
    grad = mixed.architecture_normal.grad
    dear, free = CHOICES.index("sep_conv_5x5"), CHOICES.index("max_pool_3x3")
    assert (grad[:, dear] > 0).all() and (grad[:, free] < 0).all()


def test_a_mixture_learns_to_keep_its_limit():
    """Of images that want dear convolutions the cells become cheap enough, and no cheaper."""
    torch.manual_seed(0)
    budget = _budget(0.3)
    found = _relaxed(budget, Dual(rate=0.5), steps=150)
    counts = BATS.count(BATS.config(BATS.strongest(found.tables)))
    assert budget.macs is not None and 0.5 * budget.macs < counts.macs <= budget.macs
    assert max(found.told) > 0


def test_a_multiplier_returns_to_0_where_there_is_room():
    torch.manual_seed(0)
    found = _relaxed(_budget(1.1), Dual(rate=0.5, first=0.4), steps=40)
    assert found.told[0] > 0 and found.told[-1] == 0
    assert found.told == sorted(found.told, reverse=True)


def _relaxed(budget, multiplier, *, steps):
    """Let the architecture learn what it likes, the dearest convolutions, against a limit."""
    mixed = BATS.supernet()
    relaxed = Relaxed(Dear(), BATS, Priced(multiplier, mixture_cost(BATS, budget)))
    both = [mixed.architecture_normal, mixed.architecture_reduce]
    optimizer, told = torch.optim.Adam(both, 0.03), []
    for number in range(steps):
        step = Step(number, steps, 0.0)
        optimizer.zero_grad()
        relaxed.second(mixed, cast(Any, None), step)["loss"].backward()
        optimizer.step()
        relaxed.after_step(mixed, step)
        told.append(float(relaxed.multiplier))
    assert relaxed.state_dict()["multiplier"] == told[-1]
    normal, reduce = (table.tolist() for table in mixed.mixture())
    return SimpleNamespace(tables=(normal, reduce), told=told)


class Dear(Objective):
    """Wants convolutions of 5x5 everywhere."""

    def forward(self, model, batch, step):
        mixed: Any = model
        normal, reduce = (table[:, CHOICES.index("sep_conv_5x5")] for table in mixed.mixture())
        return {"loss": -normal.mean() - reduce.mean()}


def test_a_step_of_the_architecture_leaves_weights_alone():
    """Its gradients are those of the whole, and weights have none and learn again afterwards."""
    torch.manual_seed(0)
    mixed = BATS.supernet().train()
    images, targets = torch.randn(4, 1, 12, 12), torch.arange(4) % 3
    batch: Any = SimpleNamespace(images=images, targets=targets)
    inner = CrossEntropyLoss(0.0)
    architecture = [mixed.architecture_normal, mixed.architecture_reduce]
    whole = torch.autograd.grad(inner(mixed, batch, Step(0, 2, 0.0))["loss"], architecture)
    relaxed = Relaxed(inner, BATS)
    relaxed.second(mixed, batch, Step(0, 2, 0.0))["loss"].backward()
    for one, expected in zip(architecture, whole, strict=True):
        assert one.grad is not None and torch.allclose(one.grad, expected, atol=1e-6)
    weights = [p for name, p in mixed.named_parameters() if not name.startswith("architecture")]
    assert all(p.grad is None and p.requires_grad for p in weights)
    relaxed(mixed, batch, Step(0, 2, 0.0))["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in weights)
