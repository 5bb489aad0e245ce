"""Outlines of objects as small pictures in frames, which move with their objects.

Behind the class and the box of a target (5 values) stand the frame, four shares of the image's
sides that may lie outside of it, and a picture of `SIDE` x `SIDE` places in it, 1 inside of the
object and 0 outside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 56
# How long a target is.
LENGTH = 9 + SIDE**2


def drawn_in(boxes: Tensor, targets: Tensor, side: int) -> Tensor:
    """Return which places of boxes (n, 4), shares of an image, lie in their objects: bool (n, side,
    side). Raises ValueError for targets (n, c) without outlines.

    Examples:
        >>> import torch
        >>> whole = torch.tensor([0.0, 0, 0, 0.5, 1, 0, 0, 0.5, 1])
        >>> target = torch.cat([whole, torch.ones(SIDE**2)])[None]
        >>> drawn_in(torch.tensor([[0.0, 0, 1, 1]]), target, 4)[0, 0].tolist()
        [True, True, False, False]
    """
    from torchvision.ops import roi_align

    if targets.shape[-1] != LENGTH:
        raise ValueError(
            f"targets have {targets.shape[-1]} values: give {LENGTH}, with the outline of each"
        )
    frame, pictures = targets[:, 5:9], targets[:, 9:].unflatten(1, (1, SIDE, SIDE))
    corner, size = frame[:, :2], frame[:, 2:] - frame[:, :2]
    # Around a picture there is nothing, where RoIAlign repeats its last places.
    low, high = ((end - corner) / size * SIDE + 1 for end in (boxes[:, :2], boxes[:, 2:]))
    number = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)
    rows = torch.cat([number[:, None], low.to(boxes.dtype), high.to(boxes.dtype)], 1)
    framed = F.pad(pictures.to(boxes.dtype), (1, 1, 1, 1))
    return roi_align(framed, rows, side, 1.0, -1, aligned=True)[:, 0] >= 0.5
