"""What a detector says at every place of an image, and what is left of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Less likely boxes say nothing; those of a class that overlap more are one; a class has so many.
LEAST_SCORE, MOST_OVERLAP, MOST_BOXES = 0.05, 0.5, 100
# A box with less of a side of the image is none.
LEAST_SIDE = 1e-3


class Answers(NamedTuple):
    """What a detector says at every place: boxes (B, N, 4) in shares and, for each class, how sure
    it is, (B, N, classes) from 0 to 1."""

    boxes: Tensor
    scores: Tensor


class Boxes(NamedTuple):
    """What is left of an image's answers: boxes (n, 4) in shares, scores (n,), labels (n,), and
    how likely each place of a box is the object's (n, side, side), where that is said."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


class Chosen(NamedTuple):
    """What a detector that chooses itself finds, the surest first: boxes (B, D, 4) in shares,
    scores (B, D), 0 where a row is empty, labels (B, D), and how likely each place of a box is the
    object's (B, D, side, side), where that is said."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


def inside(boxes: Tensor, scores: Tensor) -> Answers:
    """Return answers whose boxes (B, N, 4) are cut at the borders of the image; of what is left
    without area nothing is said."""
    cut = boxes.clamp(0, 1)
    area = (cut[..., 2:] - cut[..., :2] > LEAST_SIDE).all(-1, keepdim=True)
    return Answers(cut, scores * area.to(scores.dtype))


def best(answers: Answers) -> list[Boxes]:
    """Return the boxes of each image: of each class those that no surer one overlaps.

    Scores are `LEAST_SCORE` or more, and a class has up to `MOST_BOXES`; they are in the order of
    classes, the surest first, as the exported file gives them.
    """
    from torchvision.ops import nms

    found = []
    for boxes, scores in zip(answers.boxes.float(), answers.scores.float(), strict=True):
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for label in range(scores.shape[1]):
            sure = (scores[:, label] > LEAST_SCORE).nonzero()[:, 0]
            own, shares = boxes[sure], scores[sure, label]
            rows = nms(own, shares, MOST_OVERLAP)[:MOST_BOXES]
            kept.append((own[rows], shares[rows], torch.full_like(rows, label)))
        found.append(Boxes(*(torch.cat(parts) for parts in zip(*kept, strict=True))))
    return found
