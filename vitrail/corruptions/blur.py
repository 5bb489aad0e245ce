"""Blurs: out of focus, behind frosted glass, in motion, while zooming."""

from __future__ import annotations

import math

import numpy as np

from vitrail.corruptions.common import (
    Image,
    Severity,
    between,
    filtered,
    length,
    line,
    sampled,
    smoothed,
)

ZOOMS = 8


def defocus_blur(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Spread every point over a disc, its edge softened by half a pixel."""
    radius = length(image, severity, (3, 4, 6, 8, 10))
    reach = math.ceil(radius) + 1
    fine = 8
    places = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = places[:, None] ** 2 + places[None] ** 2 <= radius**2
    kernel = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).sum((1, 3)).astype(float)
    kernel[reach, reach] = max(kernel[reach, reach], 1.0)  # a disc may fall between all places
    return smoothed(filtered(image, kernel / kernel.sum()), 0.5)


def glass_blur(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Blur, move every pixel by chance, and blur again."""
    sigma = length(image, severity, (0.7, 0.8, 0.9, 1.0, 1.1))
    reach = length(image, severity, (3, 5, 7.5, 10, 14))
    image = smoothed(image, sigma)
    height, width = image.shape[:2]
    moves = random.uniform(-reach, reach, (2, height, width))
    rows, columns = np.mgrid[:height, :width] + moves
    return smoothed(sampled(image, rows, columns), sigma)


def motion_blur(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Smear along a line within 45 degrees of the horizontal."""
    pixels = length(image, severity, (10, 15, 20, 25, 30))
    angle = random.uniform(-math.pi / 4, math.pi / 4)
    return filtered(image, line(pixels, angle))


def zoom_blur(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Average the picture with ever larger ones around its middle."""
    from scipy.ndimage import affine_transform

    most = between(image, severity, (1.06, 1.11, 1.16, 1.21, 1.26), (1.11, 1.16, 1.21, 1.26, 1.31))
    planes, middle = np.moveaxis(image, 2, 0), (np.array(image.shape[:2]) - 1) / 2
    total = np.zeros_like(planes)
    for zoom in np.linspace(1, most, ZOOMS):
        for plane, sum_of in zip(planes, total, strict=True):
            sum_of += affine_transform(
                plane, [1 / zoom, 1 / zoom], middle - middle / zoom, order=1, mode="reflect"
            )
    return np.moveaxis(total, 0, 2) / ZOOMS
