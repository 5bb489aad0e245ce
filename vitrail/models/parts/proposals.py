"""The first stage of a detector: which anchors hold an object, and where it is.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
NeurIPS 2015, arXiv 1506.01497, on a pyramid (Lin et al., CVPR 2017, arXiv 1612.03144): anchors of
one size and three shapes at each place of each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.surest import ANY, surest
from vitrail.models.parts.box_coding import corrected, corrections
from vitrail.models.parts.box_losses import BACKGROUND, matched
from vitrail.models.trunk.detector import Place

# An anchor's side in strides, its shapes (height by width).
SIZE, SHAPES = 8, (0.5, 1.0, 2.0)
ANCHORS = len(SHAPES)
# Overlaps from which an anchor is an object's own, and below which it is background.
OWN, APART = 0.7, 0.3
# So many anchors of an image are learned from, at most this share of them objects' own.
LEARNED, SHARE = 256, 0.5
# Proposals of a level that overlap more are one.
OVERLAP = 0.7
# Where the loss of a correction turns from a square to a line.
BEND = 1 / 9


class Proposals(NamedTuple):
    """Where objects may be: boxes (B, M, 4) in shares, and whether a box is `there` (B, M) or
    fills up."""

    boxes: Tensor
    there: Tensor


class Proposer(nn.Module):
    """Levels (B, width, h, w) to (B, anchors, 5): corrections, and the logit of an object."""

    def __init__(self, width: int) -> None:
        from torchvision.models.detection.rpn import RPNHead

        super().__init__()
        self.head = RPNHead(width, ANCHORS)

    def forward(self, levels: list[Tensor]) -> Tensor:
        logits, moves = self.head(levels)
        return torch.cat(
            [
                torch.cat([_by_anchor(move, 4), _by_anchor(logit, 1)], -1)
                for logit, move in zip(logits, moves, strict=True)
            ],
            1,
        )


def _by_anchor(x: Tensor, values: int) -> Tensor:
    """Bring (B, anchors * values, h, w) to (B, h * w * anchors, values)."""
    b, _, h, w = x.shape
    x = x.view(b, ANCHORS, values, h, w).permute(0, 3, 4, 1, 2)
    return x.reshape(b, h * w * ANCHORS, values)


def anchors(place: Place, image: tuple[int, int], like: Tensor) -> Tensor:
    """Return the anchors (N, 4) around some places of images (H, W), in shares of the sides."""
    shapes = [(SIZE / shape**0.5, SIZE * shape**0.5) for shape in SHAPES]
    half = place.strides[:, None, None] * place.strides.new_tensor(shapes) / 2
    corners = torch.cat([place.centres[:, None] - half, place.centres[:, None] + half], -1)
    sides = place.strides.new_tensor(image[::-1]).repeat(2)
    return (corners.flatten(0, 1) / sides).to(like.dtype)


def proposed(
    said: Tensor, around: Tensor, counts: Sequence[int], most: int, least: float = 1e-3
) -> Proposals:
    """Return the likeliest boxes that do not overlap, of all levels together the `most` likely.

    `said` (B, N, 5) is what a `Proposer` says of the anchors `around` (N, 4), of which each level
    has so many; boxes with less than `least` of a side are none.
    """
    boxes, scores, rows, at = [], [], [], 0
    for level, n in enumerate(counts):
        own = said[:, at : at + n]
        sure, row = own[..., 4].topk(min(most, n), 1)
        moves = own[..., :4].gather(1, row[..., None].expand(-1, -1, 4))
        found = corrected(around[at : at + n][row], moves).clamp(0, 1)
        boxes.append(found)
        scores.append(sure)
        rows.append(torch.full_like(row, level))
        at += n
    every, sure, level = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(rows, 1)
    whole = (every[..., 2:] - every[..., :2] > least).all(-1)
    sure = torch.where(whole, sure, 2 * ANY)
    # Boxes of a level lie apart from those of others, so that only its own overlap.
    kept = surest(every + 2.0 * level[..., None], sure, most, OVERLAP, ANY)
    found = every.gather(1, kept.clamp(min=0)[..., None].expand(-1, -1, 4))
    return Proposals(found, kept >= 0)


def losses(
    said: Tensor, around: Tensor, targets: Tensor, random: torch.Generator | None
) -> dict[str, Tensor]:
    """Return the losses "objects" and "proposals" of anchors that are drawn from all, for each."""
    pairs = [matched(around, one, OWN, APART) for one in targets]
    labels, row = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    own, rest = drawn(labels, LEARNED, SHARE, random)
    every = own | rest
    total = every.sum().clamp(min=1)
    there = F.binary_cross_entropy_with_logits(
        said[..., 4][every], own[every].to(said.dtype), reduction="sum"
    )
    truth = targets.gather(1, row[..., None].expand(-1, -1, 5))[own][:, 1:].to(around.dtype)
    wanted = corrections(around.expand(len(said), -1, 4)[own], truth)
    moved = F.smooth_l1_loss(said[..., :4][own], wanted, beta=BEND, reduction="sum")
    return {"objects": there / total, "proposals": moved / total}


def drawn(
    labels: Tensor, most: int, share: float, random: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return which of labels (B, N) are learned from: objects' own, and background, bool (B, N).

    Of an image there are at most `most` together, `share` of them objects' own. `random` draws
    them, or torch's own generator.
    """
    keys = torch.rand(labels.shape, generator=random, device=labels.device)
    own = _some(labels >= 0, keys, torch.full_like(labels[:, :1], int(share * most)))
    return own, _some(labels == BACKGROUND, keys, most - own.sum(1, keepdim=True))


def _some(there: Tensor, keys: Tensor, most: Tensor) -> Tensor:
    """Keep those of the smallest keys, at most so many (B, 1) in a row."""
    ranks = torch.where(there, keys, torch.inf).argsort(1).argsort(1)
    return there & (ranks < most)
