"""What detectors minimise: focal loss of classes, generalized overlap of boxes.

Focal loss: Lin et al., ICCV 2017, arXiv 1708.02002. Generalized intersection over union:
Rezatofighi et al., CVPR 2019, arXiv 1902.09630; it is the same in pixels and in shares.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.models.trunk.detector import CROWD

# A target of a place: a class from 0 on, or one of these.
BACKGROUND, IGNORED = -1, -2
# From which share of it on a place lies in a crowd.
IN_CROWD = 0.5


def focal(scores: Float[Tensor, "b n k"], labels: Int[Tensor, "b n"]) -> Tensor:
    """Return the sum of the focal loss over all places but those that are `IGNORED`.

    `scores` are logits, `labels` classes or `BACKGROUND`.
    """
    from torchvision.ops import sigmoid_focal_loss

    truth = torch.zeros_like(scores)
    image, place = (labels >= 0).nonzero(as_tuple=True)
    truth[image, place, labels[image, place]] = 1
    terms = sigmoid_focal_loss(scores, truth, alpha=0.25, gamma=2.0)
    return terms[labels != IGNORED].sum()


def apart(boxes: Float[Tensor, "n 4"], truth: Float[Tensor, "n 4"]) -> Tensor:
    """Return the sum over pairs of boxes of 1 less their generalized overlap."""
    from torchvision.ops import generalized_box_iou_loss

    return generalized_box_iou_loss(boxes, truth, reduction="sum")


def objects(targets: Float[Tensor, "m c"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return of one image's targets the boxes (n, 4) and classes (n,) of its objects, and crowds
    (c, 4)."""
    kinds = targets[:, 0].long()
    there = kinds >= 0
    return targets[there, 1:5], kinds[there], targets[kinds == CROWD, 1:5]


def in_crowds(boxes: Float[Tensor, "n 4"], crowds: Float[Tensor, "c 4"]) -> Tensor:
    """Return which boxes lie in a crowd with half their area or more: bool (n,)."""
    if not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    low = torch.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
    return (shared >= IN_CROWD * area[:, None]).any(1)


def matched(
    boxes: Float[Tensor, "n 4"], targets: Tensor, own: float, apart: float, *, every: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the class (n,), or `BACKGROUND` or `IGNORED`, of each box, and of which row of targets
    (m, c) it is the object (n,).

    From an overlap of `own` on a box is an object's own, below `apart` it is background. Where
    `every` object counts, it has the box that overlaps it most, however little that is.
    """
    from torchvision.ops import box_iou

    truth, kinds, crowds = objects(targets)
    labels = torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    row = torch.zeros_like(labels)
    if len(truth):
        overlap = box_iou(truth.to(boxes.dtype), boxes)
        most, which = overlap.max(0)
        labels[most >= apart] = IGNORED
        mine = most >= own
        if every:
            nearest = overlap.amax(1, keepdim=True)
            best = (overlap == nearest) & (nearest > 0)
            which = torch.where(best.any(0), best.to(overlap.dtype).argmax(0), which)
            mine |= best.any(0)
        labels[mine] = kinds[which[mine]]
        row[mine] = (targets[:, 0] >= 0).nonzero()[:, 0][which[mine]]
    labels[in_crowds(boxes, crowds) & (labels == BACKGROUND)] = IGNORED
    return labels, row
