"""Group masks: rectangles of pixels that hide connected parts of an image, for a whole batch at
once.

Group masked model learning, Atito et al., "SiT", arXiv 2104.03602. The authors draw rectangle after
rectangle until a wanted number of distinct pixels is hidden; here all candidates are drawn at once
and cut where that number is reached, which gives the same distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES = 256
LARGEST = 0.3  # of a side that a rectangle covers, at most


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

    The number of boxes is found by bisection, since what is hidden only grows.
    """
    rows, columns = (torch.arange(side, device=boxes.device) for side in size)
    top, left, bottom, right = boxes[..., None].unbind(2)
    down = ((rows >= top) & (rows < bottom)).float()
    across = ((columns >= left) & (columns < right)).float()

    def hidden(count: Tensor) -> Tensor:
        used = torch.arange(boxes.shape[1], device=boxes.device) < count[:, None]
        return (down * used[..., None]).mT @ across > 0

    low = torch.ones_like(wanted, dtype=torch.int64)
    high = torch.full_like(low, boxes.shape[1])
    while bool((low < high).any()):
        middle = (low + high) // 2
        enough = hidden(middle).sum((1, 2)) >= wanted
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    return hidden(low)
