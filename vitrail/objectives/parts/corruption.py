"""Group masks: rectangles of pixels that hide connected parts of an image, for a whole batch at
once.

Group masked model learning, Atito et al., "SiT", arXiv 2104.03602. The authors draw rectangle after
rectangle until a wanted number of distinct pixels is hidden; here all candidates are drawn at once
and cut where that number is reached, which gives the same distribution.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CANDIDATES = 256
LARGEST = 0.3  # of a side that a rectangle covers, at most
_BITS, _FULL = 64, np.uint64(2**64 - 1)


def rectangles(drawn: Tensor, size: tuple[int, int], align: int = 1) -> Tensor:
    """Return rectangles int64 (B, K, 4) as top, left, bottom, right, of shares (B, K, 4) in [0, 1).

    Corners and sides are multiples of `align` pixels; sides are below 0.3 of the image's.
    """
    sides = torch.tensor(size, device=drawn.device)
    corner = (drawn[..., :2] * sides).floor().long() // align * align
    most = torch.clamp((sides * LARGEST).ceil().long(), min=align + 1)
    extent = (align + drawn[..., 2:] * (most - align)).floor().long() // align * align
    return torch.cat([corner, torch.minimum(corner + extent.clamp(min=align), sides)], -1)


def group_mask(wanted: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which pixels are hidden, bool (B, H, W): by the fewest first boxes (B, K, 4) of each
    image that hide at least `wanted` (B,) distinct ones, or by all of them.

    Columns are bits of words, so that one box of every image is added, and its pixels are counted,
    in a few operations of NumPy; an image that hides enough is left out of the next ones.
    """
    goals, held = wanted.cpu().numpy(), boxes.cpu().numpy()
    height, width = size
    across = -(-width // _BITS)
    # Row n of a table has its first n rows, or columns, set: two of them tell a range.
    rows = np.where(np.arange(height) < np.arange(height + 1)[:, None], _FULL, np.uint64(0))
    columns = np.arange(_BITS * across) < np.arange(width + 1)[:, None]
    words = np.packbits(columns, axis=1).view(np.uint64)
    hidden = np.empty((len(goals), across, height), np.uint64)
    open_, mask = np.arange(len(goals)), np.zeros_like(hidden)
    for box in range(held.shape[1]):
        top, left, bottom, right = held[open_, box].T
        down = (rows[bottom] ^ rows[top])[:, None]
        mask |= down & (words[right] ^ words[left])[:, :, None]
        enough = np.bitwise_count(mask).reshape(len(open_), -1).sum(1) >= goals[open_]
        if enough.any():
            hidden[open_[enough]] = mask[enough]
            open_, mask = open_[~enough], mask[~enough]
        if not len(open_):
            break
    hidden[open_] = mask
    whole = np.ascontiguousarray(hidden.swapaxes(1, 2)).view(np.uint8)
    found = np.unpackbits(whole, axis=2)[..., :width].view(bool)
    return torch.from_numpy(found).to(boxes.device)
