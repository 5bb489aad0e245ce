"""Boxes as corrections of other boxes: shifts in their sizes, and logarithms of growth.

Girshick et al., CVPR 2014, arXiv 1311.2524. Both are the same in pixels and in shares.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A box is at most so many times as large as what it corrects.
LARGEST = math.log(1000 / 16)


def corrected(boxes: Tensor, corrections: Tensor) -> Tensor:
    """Return boxes (..., 4) that are moved and grown by corrections (..., 4)."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2 + corrections[..., :2] * size
    half = size / 2 * corrections[..., 2:].clamp(max=LARGEST).exp()
    return torch.cat([centre - half, centre + half], -1)


def corrections(boxes: Tensor, truth: Tensor) -> Tensor:
    """Return what moves and grows boxes (..., 4), which have an area, to the truth (..., 4)."""
    size, wanted = boxes[..., 2:] - boxes[..., :2], truth[..., 2:] - truth[..., :2]
    shift = (truth[..., :2] + wanted / 2 - boxes[..., :2] - size / 2) / size
    return torch.cat([shift, (wanted / size).log()], -1)
