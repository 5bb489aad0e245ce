"""Optimizer groups, schedule, objective and metrics, each against what defines it."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support import toy
from torch import nn

from vitrail.config import parse, to_json
from vitrail.errors import ConfigError, DataError
from vitrail.objectives.context import Context
from vitrail.objectives.cross_entropy import CrossEntropy, CrossEntropyLoss
from vitrail.proportions import wilson
from vitrail.tasks import metrics
from vitrail.training.objective import Step
from vitrail.training.optimizer import AdamW, Sgd, adjust, build
from vitrail.training.schedule import Cosine, Linear, Rsqrt, Schedules

NOW = Step(0, 10, 0.0)


def of(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, dict]:
    """The group of each parameter by its name."""
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: g for g in optimizer.param_groups for p in g["params"]}


# ---- optimizer -------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [AdamW(weight_decay=0.3), Sgd(weight_decay=0.3)])
def test_decay_is_of_matrices_and_kernels_only(optimizer):
    model = toy.net()
    groups = of(build(optimizer, model), model)
    assert groups.keys() == dict(model.named_parameters()).keys()
    decayed = {name for name, group in groups.items() if group["weight_decay"] == 0.3}
    assert decayed == {
        "stem.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "head.weight",
    }
    assert all(g["weight_decay"] == 0 for n, g in groups.items() if n not in decayed)


def test_layer_decay_falls_away_from_the_head():
    model = toy.net()
    optimizer = build(AdamW(lr=1.0, layer_decay=0.5), model)
    adjust(optimizer, 0.8)
    groups = of(optimizer, model)
    assert groups["head.weight"]["lr"] == groups["head.bias"]["lr"] == 0.8
    assert groups["attention.in_proj_weight"]["lr"] == 0.4
    assert groups["norm.weight"]["lr"] == 0.2
    assert groups["position"]["lr"] == groups["stem.bias"]["lr"] == 0.1


def test_frozen_parameters_are_left_out():
    model = toy.net()
    model.stem.requires_grad_(False)
    assert not any(name.startswith("stem") for name in of(build(Sgd(), model), model))
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build(Sgd(), model.requires_grad_(False))


def test_layer_decay_needs_depths():
    with pytest.raises(ConfigError, match=r"layer_decay 0\.7 needs a model with depth"):
        build(AdamW(layer_decay=0.7), nn.Linear(2, 2))


@pytest.mark.parametrize(
    "kind, values, said",
    [
        (AdamW, {"lr": 0}, "optimizer: lr 0.0 is not above 0"),
        (AdamW, {"betas": [0.9, 1.0]}, "betas"),
        (AdamW, {"layer_decay": 1.5}, "layer_decay"),
        (Sgd, {"momentum": 1.0}, "momentum"),
        (Sgd, {"momentum": 0.0}, "nesterov needs momentum"),
        (Sgd, {"weight_decay": -1}, "weight_decay"),
    ],
)
def test_impossible_optimizers(kind, values, said):
    with pytest.raises(ConfigError, match=said):
        parse(kind, values, "optimizer")


def test_values_go_through_json():
    for value in (AdamW(lr=0.3, betas=(0.8, 0.9)), Sgd(nesterov=False), Rsqrt(1, 2)):
        assert parse(type(value), to_json(value)) == value


# ---- schedule --------------------------------------------------------------------------


def test_schedule_warms_holds_and_falls():
    schedule = Cosine(warmup=4, hold=10, floor=0.1)
    factors = [schedule.factor(step, 30) for step in range(40)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:11] == [1.0] * 7
    assert factors[20] == pytest.approx(0.55)
    assert all(a > b for a, b in pairwise(factors[10:31]))
    assert factors[30:] == [0.1] * 10


def test_a_line_falls_evenly_and_rests_at_the_floor():
    schedule = Linear(warmup=4, floor=0.2, start=0.2, rest=5)
    factors = [schedule.factor(step, 29) for step in range(32)]
    assert factors[:5] == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0])
    assert {round(a - b, 6) for a, b in pairwise(factors[4:25])} == {0.04}
    assert factors[24:] == [0.2] * 8


def test_a_cosine_over_all_steps_is_timm_s():
    """CosineLRScheduler by steps, whose warm-up ends where the cosine has fallen already."""
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = CosineLRScheduler(optimizer, t_initial=40, lr_min=0.01, warmup_t=8)
    ours = Cosine(warmup=8, floor=0.01, rest=10, whole=True)
    for step in range(8, 40):
        assert ours.factor(step, 50) == pytest.approx(theirs._get_lr(step)[0])
    assert ours.factor(8, 50) < 0.91 and ours.factor(45, 50) == 0.01


def test_a_reciprocal_root_has_its_authors_values():
    schedule = Rsqrt(warmup=10_000, timescale=10_000, cooldown=50_000)
    told = {4_999: 0.5, 10_000: 1.0, 20_000: 0.70711, 40_000: 0.5, 75_000: 0.36515 * 0.5}
    for step, value in told.items():
        assert schedule.factor(step, 100_000) == pytest.approx(value, abs=1e-5)
    assert schedule.factor(100_000, 100_000) == 0
    shifted = Rsqrt(warmup=100, timescale=100, shift=300)
    assert shifted.factor(99, 1000) == shifted.factor(100, 1000) == 0.5
    longer = Rsqrt(warmup=10, hold=80, timescale=50, cooldown=40)
    root = Rsqrt(warmup=10, timescale=50)
    assert all(longer.factor(t, 100) == root.factor(t, 100) for t in range(81))
    assert longer.factor(90, 100) == pytest.approx(root.factor(90, 100) / 2)


@pytest.mark.parametrize("kind", [Cosine, Linear, partial(Rsqrt, timescale=20, cooldown=30)])
@settings(deadline=None)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 200), st.integers(1, 200))
def test_the_prefix_does_not_depend_on_the_total(kind, warmup, hold, total, other):
    schedule: Schedules = kind(warmup, hold)
    for step in range(max(warmup, hold)):
        assert schedule.factor(step, total) == schedule.factor(step, other)
    assert all(0 <= schedule.factor(step, total) <= 1 for step in range(250))


def test_impossible_schedules():
    with pytest.raises(ConfigError, match="hold -1"):
        Cosine(0, -1)
    with pytest.raises(ConfigError, match="floor 2"):
        Linear(0, 0, floor=2)
    with pytest.raises(ConfigError, match="cosine over all steps"):
        Cosine(0, 5, whole=True)
    with pytest.raises(ConfigError, match="cooldown -1"):
        Rsqrt(cooldown=-1)
    with pytest.raises(ConfigError, match="timescale 0"):
        Rsqrt(timescale=0)


# ---- objective -------------------------------------------------------------------------


def test_soft_and_hard_targets_are_one_loss():
    model = toy.net().eval()
    hard = toy.batches(8).get(0, 0)
    soft = type(hard)(hard.images, F.one_hot(hard.targets, 4).float(), hard.indices)
    for smoothing in (0.0, 0.2):
        objective = CrossEntropyLoss(smoothing)
        losses = [objective(model, batch, NOW)["loss"] for batch in (hard, soft)]
        torch.testing.assert_close(losses[0], losses[1])
        shares = (1 - smoothing) * soft.targets + smoothing / 4
        by_hand = -(shares * model(hard.images).log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(losses[0], by_hand)


def test_two_heads_share_the_loss():
    model, batch = toy.net().eval(), toy.batches(8).get(0, 0)
    one = CrossEntropyLoss()(model, batch, NOW)["loss"]
    two = CrossEntropyLoss()(lambda x: (model(x), 0 * model(x)), batch, NOW)["loss"]
    torch.testing.assert_close(two, (one + math.log(4)) / 2)


def test_impossible_smoothing():
    with pytest.raises(ConfigError, match=r"smoothing 1\.0"):
        CrossEntropy(1.0)
    with pytest.raises(ConfigError, match=r"balance 2\.0"):
        CrossEntropy(balance=2.0)


def test_balanced_classes_count_alike():
    """Doubling the images of a class leaves what balance=1 minimises as it was."""
    model = toy.net().eval()
    batch = toy.batches(64).get(0, 0)
    rare = batch.targets == 0
    several = torch.cat([torch.arange(64), rare.nonzero().flatten()])
    twice = type(batch)(batch.images[several], batch.targets[several], batch.indices[several])
    losses = []
    for one in (batch, twice):
        counts = one.targets.bincount(minlength=4).tolist()
        built = CrossEntropy(0.0, balance=1.0).build(model, Context("abcd", counts))
        losses.append(built(model, one, NOW)["loss"])
    torch.testing.assert_close(*losses)
    plain = CrossEntropy(0.0).build(model, Context("abcd", (1, 1, 1, 9)))
    even = CrossEntropy(0.0, balance=1.0).build(model, Context("abcd", (5, 5, 5, 5)))
    torch.testing.assert_close(plain(model, batch, NOW)["loss"], even(model, batch, NOW)["loss"])


# ---- metrics ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    """Logits of 700 samples of 5 classes, right in some 60 %, over-confident; no label 4."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (700,), generator=random)
    logits = torch.randn(700, 5, generator=random) + 1.2 * F.one_hot(labels, 5)
    return 3 * logits, labels


def test_scores_are_those_of_scikit_learn(judged):
    from sklearn import metrics as sk

    logits, labels = judged
    guesses, every = logits.argmax(1), range(5)
    scores = metrics.per_class(logits, labels)
    theirs = sk.precision_recall_fscore_support(labels, guesses, labels=every, zero_division=0)
    ours = zip(*((s.precision, s.recall, s.f1, s.n) for s in scores), strict=True)
    for mine, their in zip(ours, theirs, strict=True):
        assert list(mine) == pytest.approx(list(their), abs=1e-6)
    table = metrics.confusion(logits, labels)
    assert table.tolist() == sk.confusion_matrix(labels, guesses, labels=every).tolist()
    assert metrics.accuracy(logits, labels).value == sk.accuracy_score(labels, guesses)
    assert metrics.accuracy(logits, labels, top=3).value == pytest.approx(
        sk.top_k_accuracy_score(labels, logits, k=3, labels=every)
    )
    assert metrics.accuracy(logits, labels, top=9).value == 1
    balanced = sk.recall_score(labels, guesses, average="macro", labels=range(4))
    assert metrics.balanced_accuracy(logits, labels) == pytest.approx(balanced)


def test_wilson_interval_is_the_published_one():
    """Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20."""
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = wilson(hits, n)
        assert (found.value, found.n) == (hits / n, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 20).low == 0
    assert wilson(0, 20).high == pytest.approx(0.1611, abs=5e-5)
    assert wilson(20, 20).high == 1
    for n in range(1, 300):
        assert wilson(n, n).high == 1 and wilson(0, n).low == 0
    with pytest.raises(DataError, match="no samples"):
        wilson(0, 0)


def test_bins_make_up_the_error(judged):
    logits, labels = judged
    found = metrics.calibration(logits, labels)
    assert len(found.bins) == 15 and sum(b.n for b in found.bins) == 700
    total = sum(b.n / 700 * abs(b.accuracy - b.confidence) for b in found.bins)
    assert found.error == pytest.approx(total, abs=1e-6)
    assert all(b.low <= b.confidence <= b.high for b in found.bins if b.n)
    assert found.error > 0.15
    temperature = metrics.fit_temperature(logits, labels)
    assert metrics.calibration(logits, labels, temperature).error < found.error / 2


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 10), st.integers(2, 6), st.integers(0, 1000))
def test_temperature_is_the_best_one(sharpness, classes, seed):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (200,), generator=random)
    logits = sharpness * (torch.randn(200, classes, generator=random) + F.one_hot(labels, classes))
    found = metrics.fit_temperature(logits, labels)
    best = metrics.cross_entropy(logits, labels, found)
    assert best <= metrics.cross_entropy(logits, labels)
    for other in (0.05, found * 0.98, found * 1.02, 20.0):
        if 0.05 <= other <= 20:
            assert best <= metrics.cross_entropy(logits, labels, other) + 1e-9


def test_temperature_of_perfect_logits_stays_in_bounds():
    labels = torch.arange(4)
    found = metrics.fit_temperature(10.0 * F.one_hot(labels, 4), labels)
    assert 0.05 <= found <= 1
