"""LAMB, Lion, Adafactor and adaptive clipping against what defines them, stopped and resumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import golden, toy
from support.peers import Peer
from torch import nn

from vitrail.config import parse, to_json
from vitrail.errors import CheckpointError, ConfigError
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.training import snapshot
from vitrail.training.adafactor import Adafactor, factored
from vitrail.training.clipping import clip_units
from vitrail.training.lamb import Lamb
from vitrail.training.learner import Learner
from vitrail.training.lion import Lion
from vitrail.training.loop import Place, Plan, train
from vitrail.training.optimizer import AdamW, Muon, Sgd, adjust, build, decay
from vitrail.training.schedule import Cosine

optim, agc = Peer("timm.optim"), Peer("timm.utils.agc")
NEW = [
    Lamb(lr=0.02), Lion(lr=5e-3, weight_decay=0.1), Adafactor(lr=3e-3), AdamW(lr=3e-3, half=True),
]  # fmt: skip
NAMES = [type(one).__name__ for one in NEW]


def moved(ours, theirs, steps=7):
    """Both after the same gradients, of which every third is zero in a whole tensor."""
    for step in range(steps):
        torch.manual_seed(step)
        for mine, their in zip(ours[1], theirs[1], strict=True):
            gradient = torch.randn_like(mine) * (step % 3 != 2)
            mine.grad, their.grad = gradient.clone(), gradient.clone()
        ours[0].step()
        theirs[0].step()
    return zip(ours[1], theirs[1], strict=True)


def pair():
    torch.manual_seed(9)
    shapes = (5, 3), (4, 2, 3, 3), (7,)
    first = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    first.append(nn.Parameter(torch.zeros(3, 3, dtype=torch.float64)))
    return first, [nn.Parameter(p.detach().clone()) for p in first]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_moves_as_timm_s(decay):
    mine, their = pair()
    theirs = optim.Lamb(their, lr=0.02, weight_decay=decay, max_grad_norm=None)
    ours = Lamb(lr=0.02).over([{"params": mine, "weight_decay": decay}])
    assert all((a - b).abs().max() < 1e-12 for a, b in moved((ours, mine), (theirs, their)))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lion_moves_as_timm_s(decay):
    mine, their = pair()
    theirs = optim.Lion(their, lr=0.02, weight_decay=decay)
    ours = Lion(lr=0.02).over([{"params": mine, "weight_decay": decay}])
    assert all((a - b).abs().max() < 1e-12 for a, b in moved((ours, mine), (theirs, their)))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_half_a_moment_moves_as_a_whole_one_up_to_its_rounding(decay):
    """bfloat16 holds 8 bits: a step of `lr` may be off by 1 of 256 of it, and more by its past."""
    mine, their = pair()
    groups = [{"params": mine, "weight_decay": decay}], [{"params": their, "weight_decay": decay}]
    ours, theirs = AdamW(lr=0.02, half=True).over(groups[0]), AdamW(lr=0.02).over(groups[1])
    gaps = [(a - b).abs().max().item() for a, b in moved((ours, mine), (theirs, their))]
    assert 0 < max(gaps) < 7 * 0.02 / 100
    kept = [state["mean"].dtype for state in ours.state.values()]
    assert kept == [torch.bfloat16] * 4
    plain = [state["exp_avg_sq"] for state in theirs.state.values()]
    squares = [state["square"] for state in ours.state.values()]
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(squares, plain, strict=True))


def test_adafactor_moves_as_its_authors():
    expected = golden.read(golden.FOLDER / "blocks" / "scaling_adafactor.json")
    shapes = dict(expected["state"])
    parameters = {name: nn.Parameter(value) for name, value in golden.state(expected).items()}
    optimizer = Adafactor(lr=1.0, half=False).over([{"params": [*parameters.values()]}])
    for step in range(5):
        before = {name: p.detach().clone() for name, p in parameters.items()}
        for name, parameter in parameters.items():
            gradient = golden.tensor(f"grad{step}/{name}", tuple(shapes[name]))
            parameter.grad = torch.from_numpy(gradient) * (1 + step)
        optimizer.step()
        for name, parameter in parameters.items():
            if figures := expected["outputs"].get(f"step{step}/{name}"):
                assert golden.deviation(before[name] - parameter, figures) <= 1e-6, (step, name)
    assert len(expected["outputs"]) == 2 * len(parameters)


def test_adafactor_decays_apart_from_its_step_and_keeps_little():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(64, 4, 48))
    optimizer = Adafactor(lr=0.1).over([{"params": [kernel], "weight_decay": 0.5}])
    before = kernel.detach().clone()
    kernel.grad = torch.zeros_like(kernel)
    optimizer.step()
    torch.testing.assert_close(kernel.detach(), 0.95 * before)
    state = optimizer.state[kernel]
    assert state["rows"].shape == (4, 48) and state["columns"].shape == (64, 4)
    assert state["mean"].dtype == torch.bfloat16
    kept = sum(v.numel() * v.element_size() for v in state.values())
    assert kept < 0.6 * 4 * kernel.numel()


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((64,), None), ((64, 31), None), ((32, 64), (1, 0)), ((40, 3, 40), (2, 0)), ((), None)],
)
def test_what_is_factored(shape, axes):
    assert factored(torch.Size(shape)) == axes


@pytest.mark.parametrize("optimizer", NEW, ids=NAMES)
def test_it_decays_what_has_axes(optimizer):
    model = toy.net()
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build(replace(optimizer, weight_decay=0.3), model).param_groups
    decayed = {names[id(p)] for g in groups if g["weight_decay"] == 0.3 for p in g["params"]}
    assert "stem.weight" in decayed and "position" not in decayed and "head.bias" not in decayed


@pytest.mark.parametrize("optimizer", [AdamW(), Sgd(), Muon(), *NEW])
def test_the_head_decays_by_its_own(optimizer):
    model = Learner(toy.net(), CrossEntropyLoss(0.1))
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build(replace(optimizer, weight_decay=0.3, head_decay=3.0), model).param_groups
    decays = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    assert decays["model.head.weight"] == 3.0 and decays["model.head.bias"] == 0.0
    assert {v for n, v in decays.items() if "head" not in n} == {0.0, 0.3}


def test_a_step_of_the_head_shrinks_it_by_its_own_decay():
    """Without gradients a step of AdamW is its decay: 1 - lr decay."""
    model = toy.net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build(AdamW(lr=0.01, weight_decay=0.5, head_decay=5.0), model)
    adjust(optimizer, 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, share in (("head.weight", 0.95), ("stem.weight", 0.995)):
        torch.testing.assert_close(model.get_parameter(name), share * before[name])


def test_groups_are_the_same_whatever_the_decay():
    """What was saved by a decay of 0 is read again: as many groups, in the same order."""
    for first, second in ((AdamW(), AdamW(weight_decay=0.0)), (AdamW(), AdamW(head_decay=0.05))):
        sizes = [[len(g["params"]) for g in build(one, toy.net()).param_groups]
                 for one in (first, second)]  # fmt: skip
        assert sizes[0] == sizes[1]


def test_what_was_begun_before_heads_had_a_decay_goes_on():
    batches = toy.batches(32, augment=toy.AUGMENT)
    told = [
        Plan(one, Cosine(2), toy.changed(total=6)).settings(batches)["optimizer"]
        for one in (AdamW(), AdamW(head_decay=3.0))
    ]
    assert "head_decay" not in told[0] and told[1]["head_decay"] == 3.0


def test_a_head_decay_that_decays_nothing():
    for changes, said in (
        ({"head_decay": -1.0}, "head_decay -1.0 is below 0"),
        ({"head_decay": 1.0, "final_decay": 0.4}, "give one of them"),
    ):
        with pytest.raises(ConfigError, match=said):
            AdamW(**changes)
    model = toy.net()
    model.head.requires_grad_(False)
    with pytest.raises(ConfigError, match="finds no matrix of a head"):
        build(AdamW(head_decay=1.0), model)


def trained(folder, optimizer, *, until=None, resume=False, **more):
    """Six steps of a net with a head so wide that some of it is factored."""
    model = toy.net()
    model.head = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 33), nn.Linear(33, 4))
    return train(
        Learner(model, CrossEntropyLoss(0.1)),
        toy.batches(32, augment=toy.AUGMENT),
        Plan(optimizer, Cosine(2), toy.changed(total=6, accumulate=1, **more)),
        Place(folder, device="cpu", until=until, resume=resume),
    )


@pytest.mark.parametrize(
    ("optimizer", "units"), [*((one, None) for one in NEW), (NEW[0], 0.01)], ids=[*NAMES, "units"]
)
def test_a_training_goes_on_with_the_same_bits(tmp_path, optimizer, units):
    whole = trained(tmp_path / "whole", optimizer, units=units)
    trained(tmp_path / "parts", optimizer, units=units, until=3)
    parts = trained(tmp_path / "parts", optimizer, units=units, resume=True)
    states = [one.best.state_dict() for one in (whole, parts)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    last = [snapshot.newest(tmp_path / name / "checkpoint") for name in ("whole", "parts")]
    assert all(torch.equal(last[0].tensors[n], last[1].tensors[n]) for n in last[0].tensors)
    assert any("head.2" in name for name in last[0].tensors if name.startswith("optimizer."))


@pytest.mark.parametrize("optimizer", NEW, ids=NAMES)
def test_it_learns(optimizer):
    model, batch = toy.net(plain=True), toy.batches(64).get(0, 0)
    stepper, losses = build(optimizer, model), []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(batch.images), batch.targets)
        losses.append(loss.item())
        stepper.zero_grad()
        loss.backward()
        stepper.step()
    assert losses[-1] < 0.5 * losses[0]


def test_entries_of_other_shapes_do_not_fit(tmp_path):
    trained(tmp_path, NEW[2], until=3)
    last = snapshot.newest(tmp_path / "checkpoint")
    assert last is not None
    name = next(n for n in last.tensors if n.startswith("optimizer.rows") and "head.2" in n)
    last.tensors[name] = last.tensors[name][:-1]
    model = Learner(toy.net(), CrossEntropyLoss())
    with pytest.raises(CheckpointError, match="does not fit"):
        snapshot.restore(last, {"model": model.model}, {"optimizer": build(NEW[2], model)})


@pytest.mark.parametrize("ratio", [0.01, 0.5])
def test_units_are_clipped_as_timm_clips_them(ratio):
    mine, their = pair()
    torch.manual_seed(1)
    for a, b in zip(mine, their, strict=True):
        a.grad = torch.randn_like(a)
        b.grad = a.grad.clone()
    clip_units(mine, ratio)
    agc.adaptive_clip_grad(their, clip_factor=ratio, eps=1e-3)
    for a, b in zip(mine, their, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    before = [p.grad.clone() for p in mine]
    clip_units(mine, 1e6)
    assert all(torch.equal(p.grad, b) for p, b in zip(mine, before, strict=True))


def test_clipping_hides_no_fault():
    bad = nn.Parameter(torch.ones(2, 3))
    bad.grad = torch.tensor([[1.0, float("nan"), 1.0], [float("inf"), 1.0, 1.0]])
    clip_units([bad], 0.01)
    assert not bad.grad.isfinite().all(1).any()


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Lamb, {"lr": 0}, "lr 0.0 is not above 0"),
        (Lamb, {"betas": [0.9, 1.0]}, "betas"),
        (Lion, {"betas": [1.0, 0.9]}, "betas"),
        (Lion, {"weight_decay": -1}, "weight_decay -1.0 is below 0"),
        (Adafactor, {"momentum": 1.0}, "momentum 1.0"),
        (Adafactor, {"cap": 1.0}, "cap 1.0"),
        (Adafactor, {"decay": 0}, "decay 0.0"),
        (Adafactor, {"layer_decay": 0}, "layer_decay 0.0"),
    ],
)
def test_impossible_settings(kind, values, said):
    with pytest.raises(ConfigError, match=said):
        parse(kind, values, "optimizer")


def test_impossible_clipping():
    with pytest.raises(ConfigError, match=r"units 0\.0 is not above 0"):
        toy.changed(units=0.0)


def test_values_go_through_json():
    for value in NEW:
        assert parse(type(value), to_json(value)) == value


def test_a_decay_goes_to_its_end_by_a_cosine_where_there_is_one():
    """DINO's: 0.04 to 0.4, half of the way at half of the steps; biases have none."""
    value = AdamW(lr=1e-3, weight_decay=0.04, final_decay=0.4)
    found = [decay(value, step, 100) for step in (0, 25, 50, 99)]
    assert found == pytest.approx([0.04, 0.4 - 0.36 * (1 + 0.5**0.5) / 2, 0.22, 0.39991], abs=1e-5)
    made = build(value, nn.Linear(3, 2))
    adjust(made, 1e-3, 0.22)
    assert {len(g["params"][0].shape): g["weight_decay"] for g in made.param_groups} == {
        2: 0.22, 1: 0.0,
    }  # fmt: skip
    assert decay(AdamW(), 50, 100) is None and decay(Lion(), 50, 100) is None
    with pytest.raises(ConfigError, match="a decay that changes needs both"):
        AdamW(weight_decay=0.0, final_decay=0.4)
