"""What is in regions of an image, read from the level of a pyramid that suits their size.

Lin et al., CVPR 2017, arXiv 1612.03144 (a region of 224 pixels is read at stride 16); RoIAlign of
He et al., ICCV 2017, arXiv 1703.06870. All levels lie in one map, one below the other with a margin
of one repeated pixel around each, so that one call reads all regions, whichever level they are of,
and nothing depends on how many are of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The side of a region, in strides of the level that it is read from: 224 pixels at stride 16.
USUAL = 14
# Points that are read along each side of a bin.
POINTS = 2


class Places(NamedTuple):
    """Regions to be read: boxes (R, 4) in shares, and of which image (R,) of a batch each is."""

    boxes: Tensor
    image: Tensor


def of_batch(boxes: Tensor) -> Places:
    """Return regions (B, M, 4) as one list, image by image."""
    number = torch.arange(boxes.shape[0], device=boxes.device)
    return Places(boxes.flatten(0, 1), number[:, None].expand(-1, boxes.shape[1]).flatten())


def regions(
    levels: Sequence[Tensor], places: Places, strides: Sequence[int], image: tuple[int, int],
    side: int,
) -> Tensor:  # fmt: skip
    """Return what is in regions of images (H, W): (R, C, side, side).

    `levels` are (B, C, h, w), finest first, and have these `strides`.
    """
    from torchvision.ops import roi_align

    maps = [x if x.dtype == torch.float64 else x.float() for x in levels]
    boxes = places.boxes
    which = level_of(boxes, strides, image)
    sizes = boxes.new_tensor([[x.shape[-1], x.shape[-2]] for x in maps])
    corners, top = [], 1.0
    for x in maps:
        corners.append([1.0, top])
        top += x.shape[-2] + 2
    scale, corner = sizes[which], boxes.new_tensor(corners)[which]
    ends = [boxes[:, :2] * scale + corner, boxes[:, 2:] * scale + corner]
    rows = torch.cat([places.image[:, None].to(boxes.dtype), *ends], 1)
    return roi_align(below(maps), rows.to(maps[0].dtype), side, 1.0, POINTS, aligned=True)


def below(maps: Sequence[Tensor]) -> Tensor:
    """Return maps (B, C, h, w) one below the other, (B, C, sum of h + 2, largest w + 2)."""
    widest = max(x.shape[-1] for x in maps)
    framed = [F.pad(x, (1, 1, 1, 1), mode="replicate") for x in maps]
    return torch.cat([F.pad(x, (0, widest + 2 - x.shape[-1])) for x in framed], 2)


def level_of(boxes: Tensor, strides: Sequence[int], image: tuple[int, int]) -> Tensor:
    """Return from which level boxes (R, 4) are read: int64 (R,), an index into strides."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) * (image[0] * image[1])
    which = torch.zeros_like(size, dtype=torch.int64)
    for stride in strides[1:]:
        which = which + (size >= (USUAL * stride) ** 2)
    return which
