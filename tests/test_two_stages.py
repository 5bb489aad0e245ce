"""Detectors of two stages: what they propose, read, choose and draw is what plain lines say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import nms, roi_align

import vitrail
from vitrail.data.instances import picture
from vitrail.data.outlines import pasted, runs, shape
from vitrail.layers.outlines import LENGTH, SIDE, drawn_in
from vitrail.layers.surest import EMPTY, surest
from vitrail.models import faster_rcnn, mask_rcnn, resnet
from vitrail.models.parts import proposals
from vitrail.models.parts.box_coding import corrected, corrections
from vitrail.models.parts.box_losses import BACKGROUND, IGNORED
from vitrail.models.parts.regions import Places, level_of, of_batch, regions

IMAGE = (64, 96)
HOST = resnet.Config(depths=(1, 1), dims=(8, 16), expansion=1, strides=(), stem_kernel=3,
                     stem_stride=4, stem_dims=(), image=IMAGE, classes=3)  # fmt: skip


def some_boxes(b, n, seed=0, largest=0.5):
    random = torch.Generator().manual_seed(seed)
    low, size = torch.rand(2, b, n, 2, generator=random, dtype=torch.float64)
    return torch.cat([low * (1 - largest), low * (1 - largest) + 0.02 + size * largest * 0.9], -1)


@pytest.mark.parametrize("least", [0.0, 0.5])
def test_the_surest_are_those_of_torchvision_one_image_at_a_time(least):
    boxes = some_boxes(3, 40)
    scores = torch.rand(3, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = surest(boxes, scores, 12, 0.5, least)
    for row, own, sure in zip(found, boxes, scores, strict=True):
        wanted = [i for i in nms(own, sure, 0.5).tolist() if sure[i] > least][:12]
        assert row.tolist() == wanted + [EMPTY] * (12 - len(wanted))


def test_corrections_lead_from_boxes_to_the_truth():
    boxes, truth = some_boxes(1, 20), some_boxes(1, 20, 1)
    assert torch.allclose(corrected(boxes, corrections(boxes, truth)), truth)


def test_regions_are_read_as_torchvision_reads_them_level_by_level():
    strides = (4, 8, 16)
    levels = [torch.randn(2, 3, IMAGE[0] * 8 // s, IMAGE[1] * 8 // s, dtype=torch.float64)
              for s in strides]  # fmt: skip
    boxes, image = some_boxes(2, 30, largest=0.9), (IMAGE[0] * 8, IMAGE[1] * 8)
    places = of_batch(boxes)
    which = level_of(places.boxes, strides, image)
    assert set(which.tolist()) == {0, 1, 2}
    found = regions(levels, places, strides, image, 7)
    pixels = places.boxes * torch.tensor([image[1], image[0]] * 2)
    for at, (level, box) in enumerate(zip(which.tolist(), pixels, strict=True)):
        row = torch.cat([places.image[at : at + 1].double(), box])[None]
        wanted = roi_align(levels[level], row, 7, 1 / strides[level], 2, aligned=True)
        assert torch.allclose(found[at : at + 1], wanted, atol=1e-12)


def test_what_is_learned_from_is_drawn_within_its_share():
    labels = torch.tensor([[2] * 50 + [BACKGROUND] * 30 + [IGNORED] * 20, [BACKGROUND] * 100])
    own, rest = proposals.drawn(labels, 40, 0.25, torch.Generator().manual_seed(0))
    assert own.sum(1).tolist() == [10, 0] and rest.sum(1).tolist() == [30, 40]
    assert (labels[own] == 2).all() and (labels[rest] == BACKGROUND).all()
    again, _ = proposals.drawn(labels, 40, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(own, again)


def test_proposals_are_the_likeliest_that_do_not_overlap_on_their_level():
    torch.manual_seed(0)
    model = vitrail.create(faster_rcnn.Config(HOST, width=16, proposals=30, hidden=16)).eval()
    with torch.no_grad():
        raw = model(torch.randn(2, 3, *IMAGE))
    around = model.anchors(IMAGE, raw.first)
    counts = [h * w * proposals.ANCHORS for h, w in model._grids[IMAGE]]
    for image in range(2):
        kept, at = [], 0
        for n in counts:
            said = raw.first[image, at : at + n]
            boxes = corrected(around[at : at + n], said[:, :4]).clamp(0, 1)
            top = said[:, 4].topk(min(30, n)).indices
            rows = nms(boxes[top], said[top, 4], proposals.OVERLAP)
            kept += [(float(said[top[r], 4]), boxes[top[r]]) for r in rows.tolist()]
            at += n
        kept.sort(key=lambda pair: -pair[0])
        own = raw.proposals.boxes[image][raw.proposals.there[image]]
        wanted = torch.stack([box for _, box in kept[:30]])
        assert torch.allclose(own, wanted, atol=1e-6)


def test_what_is_found_is_what_torchvision_finds_class_by_class():
    torch.manual_seed(0)
    model = vitrail.create(faster_rcnn.Config(HOST, width=16, proposals=30, hidden=16)).eval()
    with torch.no_grad():
        raw = model(torch.randn(1, 3, *IMAGE))
        said = model.judged(raw.levels, of_batch(raw.proposals.boxes), IMAGE)
    scores = said[:, :4].softmax(-1)
    moves = said[:, 4:].view(-1, 4, 4) / torch.tensor([10.0, 10, 5, 5])
    wanted = []
    for label in range(3):
        boxes = corrected(raw.proposals.boxes[0], moves[:, label + 1]).clamp(0, 1)
        there = raw.proposals.there[0] & (scores[:, label + 1] > 0.05)
        there &= ((boxes[:, 2:] - boxes[:, :2]) > 1e-3).all(1)
        rows = there.nonzero()[:, 0]
        kept = rows[nms(boxes[rows], scores[rows, label + 1], 0.5)]
        wanted += [(float(scores[r, label + 1]), label, boxes[r]) for r in kept.tolist()]
    wanted.sort(key=lambda one: -one[0])
    [found] = model.found(raw)
    assert len(found.scores) == min(100, len(wanted)) > 0
    assert found.labels.tolist() == [label for _, label, _ in wanted[:100]]
    assert torch.allclose(found.boxes, torch.stack([box for *_, box in wanted[:100]]), atol=1e-5)


def test_outlines_that_are_drawn_are_those_that_were_there():
    """A disc of its frame, drawn in half of it and in its middle."""
    y = (torch.arange(SIDE) + 0.5).div(SIDE).sub(0.5).view(-1, 1)
    disc = ((y.T**2 + y**2) < 0.25).float()
    target = torch.cat([torch.tensor([0.0, 0.2, 0.2, 0.6, 0.6, 0.2, 0.2, 0.6, 0.6]), disc.ravel()])
    whole = torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.2, 0.2, 0.4, 0.6], [0.6, 0.6, 1.0, 1.0]])
    assert len(target) == LENGTH
    found = drawn_in(whole, target.expand(3, -1), 28)
    centre = (torch.arange(28) + 0.5).div(28).sub(0.5)
    plain = (centre[:, None] ** 2 + centre[None] ** 2) < 0.25
    assert (found[0] != plain).float().mean() < 0.02
    assert found[1][:, -1].float().mean() > 0.9 and found[1][:2, :2].sum() == 0
    assert not found[2].any()
    with pytest.raises(ValueError, match="with the outline of each"):
        drawn_in(whole, target[None, :5].expand(3, -1), 28)


def test_a_picture_of_an_outline_and_back_is_the_outline():
    """Polygons and run lengths of the same object give the same picture, which is pasted back."""
    turns = np.linspace(0, 2 * np.pi, 40)[:-1]
    corners = np.stack([30 + 14 * np.cos(turns), 22 + 9 * np.sin(turns)], 1)
    polygon, size = [corners.ravel().tolist()], (48, 64)
    down, right = np.mgrid[:48, :64] + 0.5
    plain = ((right - 30) / 14) ** 2 + ((down - 22) / 9) ** 2 < 1
    counts = runs(plain)
    assert np.array_equal(shape({"size": [48, 64], "counts": counts}, size, 1), plain)
    box = np.array([16.0, 13, 44, 31])
    own, other = picture(polygon, box, 1), picture({"size": [48, 64], "counts": counts}, box, 1)
    assert (own != other).mean() < 0.05 and 0.7 < own.mean() < 0.85
    back = pasted(own.astype(np.float32), box, size)
    assert (back & plain).sum() / (back | plain).sum() > 0.97
    outside = pasted(np.ones((28, 28)), np.array([-5.0, -5, 3, 2]), (4, 4))
    assert outside.astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]


def test_a_detector_of_two_stages_says_nothing_in_training():
    model = vitrail.create(faster_rcnn.Config(HOST, width=16, proposals=8, hidden=16)).train()
    raw = model(torch.zeros(1, 3, *IMAGE))
    with pytest.raises(RuntimeError, match="call eval"):
        model.found(raw)
    with pytest.raises(vitrail.errors.ConfigError, match="extra is 0: expected at least 1"):
        vitrail.create(faster_rcnn.Config(HOST, width=16, extra=0))
    with pytest.raises(vitrail.errors.ConfigError, match="drawing is empty"):
        vitrail.create(mask_rcnn.Config(HOST, width=16, drawing=()))


def test_every_parameter_of_masks_learns():
    torch.manual_seed(0)
    config = mask_rcnn.Config(HOST, width=16, proposals=20, hidden=16, drawing=(8,))
    model = vitrail.create(config).train()
    raw = model(torch.randn(1, 3, *IMAGE))
    box = torch.tensor([0.1, 0.1, 0.5, 0.6])
    targets = torch.cat([torch.tensor([1.0]), box, box, torch.ones(SIDE**2)])[None, None]
    terms = model.losses(raw, targets, IMAGE)
    terms["loss"].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    rest = sum(value for name, value in terms.items() if name != "loss")
    assert torch.isclose(terms["loss"], rest) and terms["masks"] > 0
    said = model.outlined(raw.levels, Places(box[None], torch.zeros(1).long()), torch.tensor([1]),
                          IMAGE)  # fmt: skip
    assert said.shape == (1, 28, 28)
