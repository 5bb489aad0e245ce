"""What all corruptions share: how strong a severity is at a size, and blurs of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Severity = Literal[1, 2, 3, 4, 5]
SEVERITIES: tuple[Severity, ...] = (1, 2, 3, 4, 5)
# A picture (H, W, C) in [0, 1].
Image = NDArray[np.float64]
SMALL, LARGE = 32, 224


def side(image: Image) -> int:
    """Return the shorter side of a picture, in pixels."""
    return min(image.shape[:2])


def between(
    image: Image, severity: Severity, small: Sequence[float], large: Sequence[float]
) -> float:
    """Return the strength at a picture's size, from those for 32 and for 224 pixels.

    In between it moves as a power of the side; smaller and larger pictures take the ends.
    """
    share = math.log(side(image) / SMALL) / math.log(LARGE / SMALL)
    share = min(1.0, max(0.0, share))
    low, high = small[severity - 1], large[severity - 1]
    return low ** (1 - share) * high**share


def length(image: Image, severity: Severity, at_large: Sequence[float]) -> float:
    """Return a length in pixels that is given for 224 pixels and follows the side."""
    return at_large[severity - 1] * side(image) / LARGE


def smoothed(image: Image, sigma: float) -> Image:
    """Blur a picture, or a field (H, W), by a Gaussian, mirrored at its border."""
    from scipy.ndimage import gaussian_filter

    axes = (sigma, sigma, 0) if image.ndim == 3 else (sigma, sigma)
    return gaussian_filter(image, axes, mode="reflect", truncate=4.0)


def filtered(image: Image, kernel: NDArray[np.float64]) -> Image:
    """Filter every channel of a picture, or a field (H, W), by a kernel whose sum is 1."""
    from scipy.signal import fftconvolve

    reach = kernel.shape[0] // 2
    beside = ((reach, reach), (reach, reach)) + ((0, 0),) * (image.ndim - 2)
    wide = np.pad(image, beside, mode="symmetric")
    weights = kernel.reshape(*kernel.shape, *(1,) * (image.ndim - 2))
    return fftconvolve(wide, weights, mode="valid", axes=(0, 1))


def line(pixels: float, angle: float) -> NDArray[np.float64]:
    """Return a kernel that smears over a line of so many pixels at an angle in radians."""
    reach = math.ceil(pixels / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    count = max(3, 4 * math.ceil(pixels) + 1)
    for at in np.linspace(-pixels / 2, pixels / 2, count):
        y, x = reach + at * math.sin(angle), reach + at * math.cos(angle)
        top, left = math.floor(y), math.floor(x)
        down, across = y - top, x - left
        kernel[top : top + 2, left : left + 2] += np.outer([1 - down, down], [1 - across, across])
    return kernel / kernel.sum()


def sampled(image: Image, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Image:
    """Take the pixels of a picture at places between them, linearly, mirrored at the border."""
    from scipy.ndimage import map_coordinates

    places = np.stack([rows, columns])
    channels = np.moveaxis(image, 2, 0)
    found = [map_coordinates(one, places, order=1, mode="reflect") for one in channels]
    return np.stack(found, axis=2)


def clouds(shape: tuple[int, int], random: np.random.Generator, roughness: float = 0.5) -> Image:
    """Draw a field (H, W) in [0, 1] of clouds: octaves of noise, each `roughness` of the last."""
    from scipy.ndimage import zoom

    field, weight, cells = np.zeros(shape), 1.0, 2
    while cells < 2 * max(shape):
        grid = random.random((cells + 1, cells + 1))
        scale = (shape[0] / (cells + 1), shape[1] / (cells + 1))
        octave = np.asarray(zoom(grid, scale, order=1, grid_mode=True, mode="nearest"))
        field += weight * octave
        weight, cells = weight * roughness, 2 * cells
    field -= field.min()
    return field / max(field.max(), 1e-12)
