"""Methods that adapt a trained backbone: what a training moves, and how it goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import toy

from vitrail.methods import VPT
from vitrail.models import create
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, train
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule

METHODS: dict[str, Any] = {
    "vpt": VPT(3, dropout=0.2),
    "vpt_shallow": VPT(3, "shallow", projection=5),
}


def small(**more) -> Any:
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "patch": 3, "drop_path": 0.1}
    return create("vit_ti16", image=(12, 12), channels=1, classes=4, **sizes | more)


def trained(folder, method, **place):
    steps = toy.STEPS
    plan = Plan(AdamW(lr=3e-2), Schedule(2), steps, (method,))
    learner = Learner(method.apply(small()), CrossEntropyLoss())
    data = toy.batches(steps.batch // steps.accumulate, augment=toy.AUGMENT)
    return train(learner, data, plan, Place(folder, device="cpu", **place))


def states(outcome):
    return [m.state_dict() for m in (outcome.model, outcome.ema_model)]


@pytest.mark.parametrize("kind", METHODS)
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, kind):
    """And what is frozen is what it was, also in the average of weights."""
    method = METHODS[kind]
    start = method.apply(small())
    fixed = [n for n, p in start.named_parameters() if not p.requires_grad]
    whole = states(trained(tmp_path / "whole", method))
    torch.manual_seed(99)
    trained(tmp_path / "parts", method, until=7)
    torch.rand(5)
    parts = states(trained(tmp_path / "parts", method, resume=True))
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    first = start.state_dict()
    assert fixed and all(torch.equal(whole[0][name], first[name]) for name in fixed)
    moved = [n for n, v in first.items() if not torch.equal(whole[0][n], v)]
    assert set(moved) == set(first) - set(fixed)
