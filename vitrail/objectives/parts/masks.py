"""Which patches a student does not see: drawn at random, in blocks, or by a teacher's attention.

Blocks are BEiT's (Bao et al., ICLR 2022, arXiv 2106.08254); the rest is AttMask (Kakogeorgiou et
al., ECCV 2022, arXiv 2203.12719).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_ASPECT = 0.3
_TRIES = 10


def random_mask(shares: Tensor, count: int) -> Tensor:
    """Return bool (B, N) with `count` places of each row, those of the least `shares` (B, N)."""
    return _placed(shares.argsort(1)[:, :count], shares)


def attention_mask(attention: Tensor, count: int, *, lowest: bool = False) -> Tensor:
    """Return bool (B, N) with the `count` places that a class token attends to most, or least.

    `attention` (B, N) is the mean over heads of what the class token pays each patch.
    """
    return _placed(attention.argsort(1, descending=not lowest)[:, :count], attention)


def hint(mask: Tensor, attention: Tensor, shares: Tensor, most: float, ratio: float) -> Tensor:
    """Return a mask that shows some of the most attended patches again.

    Of the int(N most) most attended, int(N most ratio) are shown, those of the least `shares` (B,
    N).
    """
    best = attention.argsort(1, descending=True)[:, : int(attention.shape[1] * most)]
    shown = int(attention.shape[1] * most * ratio)
    order = shares.gather(1, best).argsort(1)[:, :shown]
    return mask & ~_placed(best.gather(1, order), attention)


def block_mask(grid: tuple[int, int], count: int, random: np.random.Generator) -> np.ndarray:
    """Return bool (h, w) with up to `count` places in rectangles, as BEiT draws them."""
    height, width = grid
    mask = np.zeros(grid, bool)
    least = (min(grid) // 3) ** 2
    while (left := count - int(mask.sum())) > 0:
        added = 0
        for _ in range(_TRIES):
            area = random.uniform(min(least, left), left)
            aspect = math.exp(random.uniform(math.log(_ASPECT), -math.log(_ASPECT)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < h < height and 0 < w < width):
                continue
            top, across = random.integers(0, height - h + 1), random.integers(0, width - w + 1)
            part = mask[top : top + h, across : across + w]
            added = int((~part).sum())
            if 0 < added <= left:
                part[:] = True
                break
            added = 0
        if not added:
            break
    return mask


def _placed(places: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros_like(like, dtype=torch.bool)
    return mask.scatter_(1, places, torch.ones_like(places, dtype=torch.bool))
