"""OWL-ViT's loss by hand: focal terms, pairs at the least cost, federated queries, mosaics."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from vitrail.data.mosaics import SHARES, SIDES, Tile, mosaic, side
from vitrail.data.queries import federated
from vitrail.models.parts.query_heads import Found
from vitrail.models.parts.query_losses import (
    Objects,
    Weights,
    costs,
    focal,
    likeliest,
    loss,
    paired,
)


def drawn(n=7, q=4, m=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, q, generator=generator, dtype=torch.float64)
    boxes = torch.rand(n, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.25
    own = torch.rand(m, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.25
    labels = torch.zeros(m, q, dtype=torch.float64)
    labels[torch.arange(m), torch.arange(m) % q] = 1
    labels[0, q - 1] = 1  # the first object is two things
    return logits, boxes, Objects(own, labels)


def overlap(a, b):
    """GIoU of two boxes (cx, cy, w, h), by its definition."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = (
        (x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a, b)
    )
    both = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - both
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return both / union - (hull - union) / hull


def test_focal_terms():
    p = 1 / (1 + math.exp(-0.7))
    found = focal(torch.tensor([0.7, 0.7], dtype=torch.float64), torch.tensor([1.0, 0.0]))
    right, wrong = -0.3 * (1 - p) ** 2 * math.log(p), -0.7 * p**2 * math.log(1 - p)
    assert found.tolist() == pytest.approx([right, wrong], rel=1e-12)
    # Of logits as those of padding nothing is infinite.
    assert focal(torch.tensor([-1e6]), torch.zeros(1)).item() == 0


def test_costs_by_hand():
    logits, boxes, objects = drawn()
    found = costs(logits, boxes, objects, Weights(labels=2.0, corners=3.0, overlap=5.0))
    for n, m in itertools.product(range(7), range(3)):
        told = 0.0
        for label in objects.labels[m].nonzero()[:, 0].tolist():
            p = torch.sigmoid(logits[n, label]).item()
            told += -0.3 * (1 - p) ** 2 * math.log(p) + 0.7 * p**2 * math.log(1 - p)
        a, b = boxes[n].tolist(), objects.boxes[m].tolist()
        distance = sum(abs(x - y) for x, y in zip(a, b, strict=True))
        expected = 2 * told + 3 * distance - 5 * overlap(a, b)
        assert found[n, m].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_pairs_cost_least_of_all():
    for seed in range(4):
        logits, boxes, objects = drawn(n=5, seed=seed)
        table = costs(logits, boxes, objects)
        rows, columns = paired(logits, boxes, objects)
        assert sorted(columns.tolist()) == [0, 1, 2] and len(set(rows.tolist())) == 3
        best = min(
            sum(table[n, m].item() for m, n in enumerate(some))
            for some in itertools.permutations(range(5), 3)
        )
        assert table[rows, columns].sum().item() == pytest.approx(best, rel=1e-12)


def test_the_loss_by_hand():
    """Two images, one of them empty: labels over labels, boxes over pairs, the mean of images."""
    logits, boxes, objects = drawn()
    empty = Objects(torch.zeros(0, 4).double(), torch.zeros(0, 4).double())
    found = Found(
        torch.stack([boxes, boxes]), torch.stack([logits, logits]), torch.zeros(2, 7, 1), None
    )
    told = loss(found, [objects, empty])
    rows, columns = paired(logits, boxes, objects)
    targets = torch.zeros(7, 4).double()
    for n, m in zip(rows.tolist(), columns.tolist(), strict=True):
        targets[n] = objects.labels[m]
    labels = focal(logits, targets).sum() / 4  # three objects, four labels
    nothing = focal(logits, torch.zeros(7, 4)).sum()
    corners = gaps = 0.0
    for n, m in zip(rows.tolist(), columns.tolist(), strict=True):
        a, b = boxes[n].tolist(), objects.boxes[m].tolist()
        ends = [[v[0] + s * v[2] / 2 for s in (-1, 1)] + [v[1] + s * v[3] / 2 for s in (-1, 1)]
                for v in (a, b)]  # fmt: skip
        corners += sum(abs(x - y) for x, y in zip(*ends, strict=True)) / 3
        gaps += (1 - overlap(a, b)) / 3
    expected = {
        "labels": (labels + nothing).item() / 2,
        "corners": corners / 2,
        "overlap": gaps / 2,
    }
    # The loss is computed in float32.
    assert {k: told[k].item() for k in expected} == pytest.approx(expected, rel=1e-5)
    assert told["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-5)


def test_padding_costs_nothing():
    logits, boxes, objects = drawn()
    present = torch.tensor([[True, True, False, True]])
    found = Found(boxes[None], logits[None], torch.zeros(1, 7, 1), None)
    before = loss(found, [objects], present)["loss"]
    changed = logits.clone()
    changed[:, 2] = -1e6
    after = loss(found._replace(logits=changed[None]), [objects], present)["loss"]
    assert after.equal(before) and after.isfinite()


def test_every_part_learns():
    logits, boxes, objects = drawn()
    logits, boxes = logits[None].requires_grad_(), boxes[None].requires_grad_()
    seen = torch.zeros(1, 7, dtype=torch.float64, requires_grad=True)
    terms = loss(Found(boxes, logits, torch.zeros(1, 7, 1), seen), [objects])
    terms["loss"].backward()
    rows, _ = paired(logits[0], boxes[0], objects)
    assert logits.grad is not None and (logits.grad != 0).all()
    assert boxes.grad is not None and seen.grad is not None
    moved = boxes.grad[0].abs().sum(1) > 0
    assert moved.nonzero()[:, 0].tolist() == sorted(rows.tolist())
    # A step makes objects of those that were paired, and of no other.
    assert ((seen.grad[0] < 0).nonzero()[:, 0]).tolist() == sorted(rows.tolist())


def test_the_likeliest_objects_are_kept():
    logits, boxes, _ = drawn()
    seen = torch.tensor([[0.1, 3.0, -1.0, 2.0, 0.0, 5.0, -2.0]])
    found = Found(boxes[None], logits[None], torch.arange(7.0).view(1, 7, 1), seen)
    kept = likeliest(found, 3)
    assert kept.embeddings.flatten().tolist() == [5.0, 1.0, 3.0]
    assert kept.logits.equal(logits[None, [5, 1, 3]]) and kept.boxes.equal(boxes[None, [5, 1, 3]])
    assert likeliest(found, 7) is found
    assert likeliest(found._replace(objectness=None), 2).logits.shape == (1, 7, 4)


def test_federated_queries():
    frequencies = np.arange(200.0)
    random = np.random.default_rng(0)
    asked = federated([7, 9], [150, 9], frequencies, random)
    assert asked[:3].tolist() == [7, 9, 150] and len(asked) == len(set(asked.tolist())) == 53
    assert 0 not in asked  # of a kind that never occurs nothing is drawn
    assert len(federated(range(1, 80), [], frequencies, random)) == 100
    assert len(federated([1], [2], np.array([1.0, 1, 1, 1]), random)) == 4
    assert federated([3], [1], np.zeros(5), random).tolist() == [3, 1]
    counts = np.zeros(200)
    for _ in range(300):
        counts[federated([], [], frequencies, random)] += 1
    assert counts[150:].mean() > 2 * counts[1:50].mean()


def test_mosaics():
    box = np.array([[0.25, 0.5, 0.5, 1.0]])
    tiles = [
        Tile(np.full((2, 3, 1), n, np.uint8), box, np.array([n]), frozenset({0, 20 + n}))
        for n in range(9)
    ]
    made = mosaic(tiles)
    assert made.image[::2, ::3, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    expected = [(2 + 0.25) / 3, (1 + 0.5) / 3, 0.5 / 3, 1 / 3]
    assert made.boxes[5].tolist() == pytest.approx(expected)
    # Kind 0 is absent from most tiles, and the first one shows it.
    assert made.absent == {20 + n for n in range(9)} and made.kinds.tolist() == list(range(9))
    assert np.array_equal(mosaic(tiles[:1]).boxes, box)
    with pytest.raises(ValueError, match="2 images make no square"):
        mosaic(tiles[:2])
    with pytest.raises(ValueError, match="resize them to one"):
        mosaic([*tiles[:3], Tile(np.zeros((3, 3, 1), np.uint8), box, np.array([1]))])
    random = np.random.default_rng(0)
    drawn = np.bincount([side(random) for _ in range(4000)], minlength=4)[1:] / 4000
    assert SIDES == (1, 2, 3) and drawn == pytest.approx(SHARES, abs=0.03)
