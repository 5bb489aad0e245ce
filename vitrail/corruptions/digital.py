"""Digital faults: little contrast, rubber, few pixels, strong compression."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as Pillow

from vitrail.corruptions.common import Image, Severity, between, sampled, side, smoothed


def contrast(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Bring every channel towards its mean."""
    left = between(image, severity, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
    mean = image.mean((0, 1), keepdims=True)
    return mean + left * (image - mean)


def elastic_transform(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Move pixels as rubber would: smoothly, by a few hundredths of the side."""
    far = (0.010, 0.015, 0.020, 0.027, 0.035)[severity - 1] * side(image)
    height, width = image.shape[:2]
    places = np.mgrid[:height, :width].astype(float)
    for axis in range(2):
        move = smoothed(random.uniform(-1, 1, (height, width)), 0.05 * side(image))
        places[axis] += far * move / max(move.std(), 1e-12)
    return sampled(image, places[0], places[1])


def pixelate(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Make the picture smaller by areas, and larger again by blocks."""
    share = between(image, severity, (0.95, 0.85, 0.75, 0.65, 0.55), (0.6, 0.5, 0.4, 0.3, 0.25))
    height, width = image.shape[:2]
    few = max(1, round(width * share)), max(1, round(height * share))
    planes = [Pillow.fromarray(_bytes(plane)) for plane in np.moveaxis(image, 2, 0)]
    small = [plane.resize(few, Pillow.Resampling.BOX) for plane in planes]
    large = [plane.resize((width, height), Pillow.Resampling.NEAREST) for plane in small]
    return np.stack([np.asarray(plane) for plane in large], axis=2) / 255


def jpeg_compression(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Write the picture as a JPEG of low quality, and read it."""
    quality = round(between(image, severity, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)))
    if image.shape[2] == 3:
        return _through(_bytes(image), quality) / 255
    planes = [_through(_bytes(plane), quality) for plane in np.moveaxis(image, 2, 0)]
    return np.stack(planes, axis=2) / 255


def _through(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Pillow.open(buffer) as found:
        return np.asarray(found)


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(255 * image + 0.5), 0, 255).astype(np.uint8)
