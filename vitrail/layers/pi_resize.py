"""Resizing of what knows patches of pixels: kernels exactly, position tables with antialiasing.

Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR 2023, arXiv 2212.08013. Resizing is
linear and works on rows and columns separately, so each is a product with two small matrices.
These are made in float64, once for each pair of sizes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Size = tuple[int, int]


def pi_resize(kernel: Float[Tensor, "o i h w"], size: Size) -> Float[Tensor, "o i h2 w2"]:
    """Resize a patch kernel so that it answers resized patches as before: PI-resize.

    With B the bilinear resizing of patches from (h, w) to `size` pixels, without antialiasing, the
    result is the pseudo-inverse of B's transpose times the kernel. Where patches grow the product
    of kernel and patch stays the same, for every patch; where they shrink it is the least-squares
    answer for patches of white noise. Differentiable; computed in the kernel's own precision, also
    under autocast.

    Examples:
        >>> kernel = torch.randn(8, 3, 16, 16)
        >>> pi_resize(kernel, (24, 20)).shape
        torch.Size([8, 3, 24, 20])
    """
    old = (kernel.shape[-2], kernel.shape[-1])
    if old == tuple(size):
        return kernel
    rows, columns = (inverse(a, b).to(kernel) for a, b in zip(old, size, strict=True))
    return _along_both(kernel, rows, columns)


def triangle_resize(maps: Float[Tensor, "*s h w"], size: Size) -> Float[Tensor, "*s h2 w2"]:
    """Resize maps bilinearly, with antialiasing along each side that shrinks.

    Pixels' centres lie at halves; the triangle is as wide as the scale asks for, and its weights
    are divided by their sum at borders.
    """
    old = (maps.shape[-2], maps.shape[-1])
    if old == tuple(size):
        return maps
    rows, columns = (triangle(a, b).to(maps) for a, b in zip(old, size, strict=True))
    return _along_both(maps, rows, columns)


def _along_both(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    # Two matrix products over all maps; autocast would round them to eight bits.
    with _exact(maps):
        return F.linear(F.linear(maps, columns).mT, rows).mT.contiguous()


def _exact(x: Tensor) -> torch.autocast:
    kind = x.device.type if x.device.type in ("cpu", "cuda") else "cpu"
    return torch.autocast(kind, enabled=False)


def inverse(old: int, new: int) -> Float[Tensor, "new old"]:
    """Return the pseudo-inverse of the transpose of `bilinear(old, new)`, in float64."""
    return _made("inverse", old, new)


def bilinear(old: int, new: int) -> Float[Tensor, "new old"]:
    """Return the matrix that resizes a line of pixels bilinearly, without antialiasing."""
    return _made("bilinear", old, new)


def triangle(old: int, new: int) -> Float[Tensor, "new old"]:
    """Return the matrix that resizes a line bilinearly, with antialiasing where it shrinks."""
    return _made("triangle", old, new)


# Arrays, since a tensor that is made while a model is exported has no values; and in a mapping,
# since the compiler looks into one and not into a cached function.
_MADE: dict[tuple[str, int, int], np.ndarray] = {}
_MOST = 4096


def _made(kind: str, old: int, new: int) -> Tensor:
    key = (kind, old, new)
    if key not in _MADE:
        if len(_MADE) >= _MOST:
            _MADE.clear()
        width = max(1.0, old / new) if kind == "triangle" else 1.0
        weights = _weights(old, new, width)
        _MADE[key] = np.linalg.pinv(weights.T) if kind == "inverse" else weights
    return torch.from_numpy(_MADE[key])


def _weights(old: int, new: int, width: float) -> np.ndarray:
    """Return triangles of half-width `width` around each new pixel's
    centre, normed in every row.
    """
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    away = np.abs(centres[:, None] - np.arange(old)[None]) / width
    weights = np.maximum(0.0, 1.0 - away)
    return weights / weights.sum(1, keepdims=True)
