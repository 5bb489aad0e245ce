"""PSS: the authors' tokens, logits and schedules; a training that is stopped goes on the same."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from support import golden, toy

import vitrail
from vitrail.config import override, to_json
from vitrail.errors import ConfigError
from vitrail.methods import PSS, PatchDropout
from vitrail.models import create, resolve
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.recipes.recipe import Data, Recipe
from vitrail.training.batch import Batch
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, train
from vitrail.training.objective import Step
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule

MINI = {"dim": 96, "depth": 6, "heads": 4, "hidden": 384, "image": (96, 96), "classes": 10}


def small(**more):
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "patch": 3, "drop_path": 0.1}
    return create("pss_s16", image=(12, 12), channels=1, classes=4, **sizes | more)


def training(epochs, steps, schedule, **more):
    method = PSS(schedule=schedule, **more)
    total = epochs * steps
    return [method.ratio(Step(n, total, n / steps)) for n in range(total)]


# ---- the authors' ----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keep"), [("magnitude", 0.6), ("full", 1.0)])
def test_golden(name, keep):
    folder = golden.FOLDER / "blocks" if name == "magnitude" else golden.FOLDER
    expected = golden.read(folder / f"pss_vit_mini_{name}.json")
    config = resolve("pss_s16", **MINI)
    model = vitrail.load(config, golden.state(expected), dtype=torch.float64)
    method = PSS(test_keep=keep)
    method.check(model)
    model = method.apply(model)
    with torch.no_grad():
        logits = model(*golden.inputs(expected))
    found = {"logits": logits, "kept": model.embed.kept.tokens}
    for key, figures in expected["outputs"].items():
        assert golden.deviation(found[key], figures) <= 1e-6, key


def test_a_ratio_in_training_keeps_what_it_keeps_at_test_time():
    expected = golden.read(golden.FOLDER / "blocks" / "pss_vit_mini_magnitude.json")
    config = resolve("pss_s16", **MINI, drop_path=0.0)
    method = PSS(schedule="fixed", start=0.4)
    model = method.apply(vitrail.load(config, golden.state(expected), dtype=torch.float64)).train()
    method.before_step(model, Step(3, 10, 0.5))
    assert golden.deviation(model(*golden.inputs(expected)), expected["outputs"]["logits"]) <= 1e-6


@pytest.mark.parametrize(
    ("schedule", "mean"), [("linear", 0.357), ("cosine", 0.367), ("cyclic", 0.360)]
)
def test_mean_of_a_schedule(schedule, mean):
    ratios = training(10, 40, schedule)
    assert round(fmean(ratios), 3) == pytest.approx(mean)
    assert set(ratios) == {0, 0.2, 0.4, 0.6, 0.8}


def test_a_cycle_is_an_epoch():
    ratios = training(10, 40, "cyclic")
    assert ratios[:40:4] == [0.8, 0.6, 0.4, 0.2, 0, 0, 0, 0.2, 0.4, 0.6]
    assert ratios == 10 * ratios[:40]


@pytest.mark.parametrize("steps", [7, 40, 60, 97])
def test_a_cycle_is_the_authors_triangle(steps):
    """In whole steps, so that rounding halves does not depend on the epoch."""
    slow = []
    for u in range(steps):
        f = u / (steps / 2) if u <= steps // 2 else (steps - u) / (steps / 2)
        slow.append(round(5 * min(1, max(0, (1 - f) * 0.8 + f * -0.1))) / 5)
    assert training(30, steps, "cyclic") == 30 * slow


def test_linear_and_cosine_go_from_start_to_end():
    for schedule in ("linear", "cosine"):
        ratios = training(5, 20, schedule)
        assert ratios[0] == 0.8 and ratios[-1] == 0
        assert ratios == sorted(ratios, reverse=True)


def test_a_fixed_ratio_rounds_halves_to_even():
    for start, rounded in ((0.4, 0.4), (0.5, 0.4), (0.3, 0.4), (0.7, 0.8), (0.9, 0.8), (0.1, 0.0)):
        assert set(training(2, 5, "fixed", start=start)) == {rounded}


def test_a_cycle_where_steps_do_not_divide_an_epoch():
    """7 micro-batches an epoch, 2 a step: the triangle is over 3.5 steps."""
    method = PSS()
    ratios = [method.ratio(Step(n, 14, 2 * n / 7)) for n in range(14)]
    assert ratios == [0.8, 0.2, 0.0, 0.6, 0.6, 0.0, 0.2] * 2


# ---- tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_ti16", "cait_xxs24_224", "deit_tiny_distilled", "t2t_vit_7"])
def test_counts_and_choices(name):
    """Of N tokens round((1 - ratio) N) are left, prefix included, by falling magnitude."""
    sizes = {"depth": 1} if name != "cait_xxs24_224" else {"depth": 1, "reading": 1}
    model = create(name, image=(64, 64), classes=3, **sizes).train()
    method = PSS(schedule="fixed", start=0.6)
    method.check(model)
    tokens = model.embed(x := torch.randn(2, 3, 64, 64))
    prefix, n = tokens.shape[1] - 16, tokens.shape[1]
    method.before_step(method.apply(model), Step(0, 1, 0.0))
    found = model.embed(x)
    assert found.shape[1] == round(0.4 * n)
    lengths = tokens.abs().sum(-1)
    for image in range(2):
        order = lengths[image, prefix:].argsort(descending=True)[: found.shape[1] - prefix]
        wanted = torch.cat([tokens[image, :prefix], tokens[image, prefix:][order]])
        assert torch.equal(found[image], wanted)


def test_random_sampling_is_of_each_image_and_of_the_seed():
    method = PSS(schedule="fixed", start=0.6, sampling="random", test_keep=0.4)
    model = method.apply(small()).train()
    method.before_step(model, Step(0, 1, 0.0))
    x = torch.randn(64, 1, 12, 12)
    kept = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model(x)
        kept.append(model.embed.kept.tokens)
    assert torch.equal(kept[0], kept[1]) and not torch.equal(kept[0], kept[2])
    assert len({tuple(row) for row in kept[0].sort(1).values.tolist()}) > 32
    model.eval()(x)
    assert (model.embed.kept.tokens == model.embed.kept.tokens[0]).all()


@pytest.mark.parametrize("sampling", ["magnitude", "random"])
def test_dropping_nothing_is_the_identity_and_removing_it_restores_the_model(sampling):
    model, x = small(drop_path=0.0).train(), torch.randn(3, 1, 12, 12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    before = model(x)
    method = PSS(sampling=sampling, schedule="fixed", start=0.0)
    changed = method.apply(deepcopy(model))
    assert torch.equal(changed(x), before)  # before any step
    method.before_step(changed, Step(0, 1, 0.0))
    assert torch.equal(changed(x), before)
    some = PSS(sampling=sampling, schedule="fixed").apply(deepcopy(model))
    PSS(schedule="fixed").before_step(some, Step(0, 1, 0.0))
    assert not torch.equal(some(x), before)
    assert torch.equal(some.eval()(x), model.eval()(x))
    some.embed = some.embed.embed
    for block in some.blocks:
        block.mixer.bias = block.mixer.bias.bias
    assert some.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(some.train()(x), before)


def test_an_image_does_not_depend_on_its_batch():
    method = PSS(test_keep=0.4)
    model = method.apply(small()).double().eval()
    x = torch.randn(3, 1, 12, 12).double()
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(row[None]) for row in x])
    assert (together - alone).abs().max() <= 1e-10


# ---- trainings -------------------------------------------------------------------------

METHODS = {
    "pss": PSS(),
    "random": PSS(schedule="linear", sampling="random"),
    "patch_dropout": PatchDropout(0.5, random_rate=True),
}


def trained(folder, method, steps, **place):
    model = method.apply(small())
    plan = Plan(AdamW(lr=3e-3), Schedule(2), steps, (method,))
    learner = Learner(model, CrossEntropyLoss())
    data = toy.batches(steps.batch // steps.accumulate, augment=toy.AUGMENT)
    return train(learner, data, plan, Place(folder, device="cpu", **place))


def states(outcome):
    return [m.state_dict() for m in (outcome.model, outcome.ema_model)]


@pytest.mark.parametrize("kind", METHODS)
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, kind):
    """With two micro-batches a step, an average of weights, and a random state of each step."""
    method, steps = METHODS[kind], toy.STEPS
    whole = states(trained(tmp_path / "whole", method, steps))
    torch.manual_seed(99)
    trained(tmp_path / "parts", method, steps, until=7)
    torch.rand(5)
    parts = states(trained(tmp_path / "parts", method, steps, resume=True))
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", METHODS)
def test_lean_training_has_the_same_bits(tmp_path, kind, monkeypatch):
    from vitrail.training import lean

    assert lean.trouble() is None
    monkeypatch.setattr(lean, "LEAST_BYTES", 0)
    one, other = (
        states(trained(tmp_path / str(on), METHODS[kind], replace(toy.STEPS, total=6, lean=on)))
        for on in (False, True)
    )
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])


@pytest.mark.parametrize("kind", METHODS)
def test_half_precision_learns(tmp_path, kind):
    steps = replace(toy.STEPS, total=4, precision="bf16-mixed")
    assert 0 < trained(tmp_path, METHODS[kind], steps).loss < 10


def test_every_micro_batch_of_a_step_keeps_as_much(tmp_path):
    method, seen = PSS(), []

    class Spy(CrossEntropyLoss):
        def forward(self, model, batch: Batch, step: Step):
            found = super().forward(model, batch, step)
            seen.append((step.number, model.embed.share))
            return found

    plan = Plan(AdamW(), Schedule(), replace(toy.STEPS, total=18), (method,))
    model = method.apply(small())
    train(Learner(model, Spy()), toy.batches(16), plan, Place(tmp_path, device="cpu"))
    assert [share for _, share in seen] == [
        1 - method.ratio(Step(n, 18, n / 16)) for n in range(18) for _ in range(2)
    ]
    assert len({share for _, share in seen}) == 5


# ---- as values -------------------------------------------------------------------------


def test_settings_choose_and_check():
    recipe = Recipe({}, Data("x"), toy.STEPS)
    recipe = override(recipe, ["methods=pss", "methods.0.schedule=linear", "methods.0.end=0.2"])
    assert recipe.methods == (PSS(schedule="linear", end=0.2),)
    assert to_json(recipe)["methods"][0]["kind"] == "pss"
    for setting, said in (
        ("schedule=square", "schedule"),
        ("sampling=best", "sampling"),
        ("start=0.95", "start is 0.95: give a share of the patches to drop from -1 to 0.9"),
        ("test_keep=0", r"test_keep is 0.0: give a share of the patches in \(0, 1\]"),
    ):
        with pytest.raises(ConfigError, match=said):
            override(recipe, [f"methods.0.{setting}"])
