"""Detectors on backbones: what they learn from, what they say, and that both are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou

import vitrail
from vitrail.engines.box_agreement import explained, unmatched
from vitrail.engines.boxes import Found
from vitrail.errors import ConfigError
from vitrail.layers import boxes as layer
from vitrail.models import config_from_json, config_json, faster_rcnn, fcos, resnet, retinanet, vit
from vitrail.models.parts.box_hosts import neck
from vitrail.models.parts.box_losses import BACKGROUND, IGNORED
from vitrail.models.trunk.backbone import Level
from vitrail.models.trunk.detector import CROWD, NOTHING
from vitrail.recipes.on_boxes import on_boxes

IMAGE = (64, 96)
RESNET = resnet.Config(depths=(1, 1), dims=(8, 16), expansion=1, strides=(), stem_kernel=3,
                       stem_stride=4, stem_dims=(), image=IMAGE, classes=3)  # fmt: skip
VIT = vit.Config(dim=16, depth=1, heads=2, image=IMAGE, classes=3)
KINDS = [(family, host) for family in (retinanet, fcos, faster_rcnn) for host in (RESNET, VIT)]
SMALL = {"width": 16}, {"width": 16, "proposals": 40, "hidden": 32}
TARGETS = torch.tensor([
    [[0, 0.1, 0.1, 0.5, 0.6], [2, 0.55, 0.3, 0.95, 0.9], [CROWD, 0, 0.7, 0.3, 1]],
    [[NOTHING, 0, 0, 0, 0]] * 3,
])  # fmt: skip


def made(family, host):
    torch.manual_seed(0)
    return vitrail.create(family.Config(host, **SMALL[family is faster_rcnn]))


@pytest.mark.parametrize(("family", "host"), KINDS)
def test_every_parameter_learns_and_the_config_is_kept(family, host):
    model = made(family, host).train()
    raw = model(torch.randn(2, 3, *IMAGE))
    terms = model.losses(raw, TARGETS, IMAGE)
    terms["loss"].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    rest = sum(value for name, value in terms.items() if name != "loss")
    assert torch.isclose(terms["loss"], rest)
    assert config_from_json(config_json(model.config)) == model.config
    if family is not faster_rcnn:
        answers = model.answers(raw)
        assert answers.boxes.shape == (*raw.shape[:2], 4) and answers.scores.shape[2] == 3
        assert answers.boxes.min() >= 0 and answers.boxes.max() <= 1
    found = model.eval().found(model(torch.randn(2, 3, *IMAGE)))
    assert len(found) == 2
    for one in found:
        assert one.boxes.shape == (len(one.scores), 4) and one.labels.shape == one.scores.shape
        assert ((one.boxes >= 0) & (one.boxes <= 1)).all() and (one.scores > 0.05).all()


@pytest.mark.parametrize("family", [retinanet, fcos])
def test_a_detector_that_says_the_truth_has_no_loss_of_boxes(family):
    """Boxes that are the truth at every place, surely said, cost next to nothing."""
    model = made(family, RESNET)
    raw = model(torch.randn(2, 3, *IMAGE)).detach()
    with torch.no_grad():
        before = model.losses(raw, TARGETS, IMAGE)
        if family is retinanet:
            anchors = model.anchors(IMAGE, raw)
            labels, boxes = zip(*(retinanet.matched(anchors, one) for one in TARGETS), strict=True)
        else:
            place, sides = model.places(IMAGE, raw.device), torch.tensor([96.0, 64.0])
            found = [fcos.assigned(place, one, sides, model._most) for one in TARGETS]
            labels, boxes = zip(*found, strict=True)
        labels, boxes = torch.stack(labels), torch.stack(boxes)
        raw[..., :4] = boxes
        raw[..., -3:] = -12
        image, at = (labels >= 0).nonzero(as_tuple=True)
        raw[image, at, raw.shape[2] - 3 + labels[image, at]] = 12
        after = model.losses(raw, TARGETS, IMAGE)
    assert len(at) and set(labels[0].tolist()) >= {0, 2, BACKGROUND} and (labels[1] < 0).all()
    assert before["boxes"] > 0.1 > 1e-5 > after["boxes"] and after["classes"] < 1e-3


def test_anchors_match_by_overlap_and_every_object_has_one():
    model = made(retinanet, RESNET)
    anchors = model.anchors(IMAGE, model(torch.zeros(1, 3, *IMAGE)))
    targets = torch.tensor([[1, 0.3, 0.3, 0.33, 0.33], [0, 0.1, 0.1, 0.6, 0.7]])
    labels, boxes = retinanet.matched(anchors, targets)
    overlap = box_iou(targets[:, 1:], anchors)
    most, own = overlap.amax(0), labels >= 0
    assert overlap[0].max() < 0.4 and (labels == 1).any()  # too small for any, and still one
    assert own[most >= 0.5].all()
    assert (labels[(most < 0.4) & ~own] == BACKGROUND).all()
    between = (most >= 0.4) & (most < 0.5) & ~own
    assert between.any() and (labels[between] == IGNORED).all()
    assert (boxes[labels == 0] == targets[1, 1:]).all() and (labels == 0).any()
    assert (anchors[:, 2:] - anchors[:, :2] > 0).all()


def test_anchors_in_a_crowd_count_for_nothing():
    model = made(retinanet, RESNET)
    anchors = model.anchors(IMAGE, model(torch.zeros(1, 3, *IMAGE)))
    labels, _ = retinanet.matched(anchors, torch.tensor([[CROWD, 0.0, 0.0, 0.5, 1.0]]))
    left, right = anchors[:, 2] <= 0.5, anchors[:, 0] >= 0.5
    assert (
        labels[left & (anchors[:, 0] >= 0) & (anchors[:, 1] >= 0) & (anchors[:, 3] <= 1)] == IGNORED
    ).all()
    assert (labels[right] == BACKGROUND).all()


def test_overlaps_are_the_same_in_shares_and_in_pixels():
    random = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 20, 2, generator=random, dtype=torch.float64)
    shares = torch.cat([corner, corner + size], 1)
    pixels = shares * torch.tensor([640, 480, 640, 480], dtype=torch.float64)
    assert torch.allclose(generalized_box_iou(shares, shares), generalized_box_iou(pixels, pixels))


def test_a_place_takes_the_smallest_object_around_its_centre():
    place = fcos.Place(torch.tensor([[32.0, 32.0], [4.0, 4.0]]), torch.tensor([8.0, 8.0]))
    both = torch.tensor([[0, 0.2, 0.2, 0.8, 0.8], [1, 0.4, 0.4, 0.6, 0.6]])
    labels, boxes = fcos.assigned(place, both, torch.tensor([64.0, 64.0]), (8, 8))
    assert labels.tolist() == [1, BACKGROUND]
    assert torch.allclose(boxes[0], both[1, 1:])
    middle = fcos.centredness(torch.tensor([[0.5, 0.5], [0.2, 0.5]]), both[[0, 0], 1:])
    assert middle.tolist() == pytest.approx([1, 0], abs=1e-3)


def slow_best(boxes, scores):
    """Ten plain lines: the surest of a class first, none that overlaps one before it."""
    kept = []
    for label in range(scores.shape[1]):
        own = []
        for row in (-scores[:, label]).argsort(stable=True).tolist():
            if scores[row, label] > layer.LEAST_SCORE and all(
                box_iou(boxes[row : row + 1], boxes[other : other + 1]) <= layer.MOST_OVERLAP
                for other in own
            ):
                own.append(row)
        kept += [(label, row) for row in own[: layer.MOST_BOXES]]
    return kept


def test_the_best_are_those_of_ten_plain_lines():
    random = torch.Generator().manual_seed(1)
    corner, size = torch.rand(2, 40, 2, generator=random) * 0.5
    boxes, scores = torch.cat([corner, corner + size], 1), torch.rand(40, 2, generator=random)
    [found] = layer.best(layer.Answers(boxes[None], scores[None]))
    wanted = slow_best(boxes, scores)
    assert found.labels.tolist() == [label for label, _ in wanted]
    assert torch.equal(found.boxes, boxes[[row for _, row in wanted]])


def test_of_boxes_outside_nothing_is_said():
    raw = torch.tensor([[[0.2, 0.2, 1.3, 0.8], [1.1, 0.2, 1.4, 0.8]]])
    answers = layer.inside(raw, torch.ones(1, 2, 1))
    assert answers.boxes[0, 0].tolist() == pytest.approx([0.2, 0.2, 1, 0.8])
    assert answers.scores[0, :, 0].tolist() == [1, 0]


def test_answers_are_compared_box_by_box():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 40]], np.float32)
    one = Found(boxes, np.array([0.9, 0.4], np.float32), np.array([0, 1]))
    assert len(unmatched(one, one)) == 0 and unmatched(one, one).largest == 0
    assert len(unmatched(one, one._replace(labels=np.array([0, 0])))) == 2
    assert len(unmatched(one, one._replace(scores=np.array([0.9, 0.41], np.float32)))) == 2
    assert len(unmatched(one, one._replace(boxes=boxes + np.array([[0.0] * 4, [1, 0, 1, 0]])))) == 2
    faint = Found(boxes[:1], np.array([layer.LEAST_SCORE + 5e-4], np.float32), np.array([0]))
    none = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert len(unmatched(faint, none)) == 0 and len(unmatched(one, none)) == 2
    masks = np.zeros((2, 4, 4), np.float32)
    masked = one._replace(masks=masks)
    assert len(unmatched(masked, masked)) == 0
    assert len(unmatched(masked, masked._replace(masks=masks + np.array([[[0]], [[0.01]]])))) == 2


def test_rounding_explains_what_it_does_and_nothing_else():
    """A model that finds one of two boxes, as its pixels are drawn, and always a third one."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 6], [50, 50, 60, 60]], np.float32)

    def of(*rows):
        at = list(rows)
        return Found(boxes[at], np.array([0.8, 0.8, 0.6], np.float32)[at], np.zeros(len(at), int))

    def model(image, number=None, size=0.0):
        return of(1, 2) if number == 3 else of(0, 2)

    image = np.zeros((8, 8, 3), np.uint8)
    for theirs, known, said in (
        (of(1, 2), 2, ""), (of(0), 0, "lacks a box of class 0 with score 0.600"),
        (of(1, 0, 2), 1, ""), (of(1), 2, "lacks"),
    ):  # fmt: skip
        apart = unmatched(model(image), theirs)
        count, left = explained(model, image, theirs, apart)
        assert count == known and left.startswith(said) and bool(left) == (count < len(apart))


def test_pyramids_have_the_strides_that_they_say():
    levels = [Level(s, 8) for s in (4, 8, 16, 32)]
    assert neck(levels, 16, 8, 2).strides == (8, 16, 32, 64, 128)
    assert neck([Level(16, 8)], 16, 8, 2).strides == (8, 16, 32, 64, 128)
    maps = neck([Level(16, 8)], 16, 4, 1)([torch.zeros(1, 4, 6, 8)])
    assert [tuple(x.shape[2:]) for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    with pytest.raises(ValueError, match="coarser than the one before"):
        neck([Level(8, 8), Level(8, 8)], 16, 8, 1)


def test_backbones_become_detectors_and_others_are_refused():
    assert on_boxes(RESNET).host == RESNET
    assert isinstance(on_boxes(fcos.Config(VIT)), fcos.Config)
    with pytest.raises(ConfigError, match="stands under no detector"):
        on_boxes(vitrail.catalog()["cct_2_3x2_32"].config)
    with pytest.raises(ConfigError, match="multiple of 8"):
        vitrail.create(retinanet.Config(RESNET, width=12))
    with pytest.raises(ConfigError, match="one class at least"):
        vitrail.create(retinanet.Config(RESNET, width=16), classes=0)
