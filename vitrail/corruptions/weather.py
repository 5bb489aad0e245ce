"""Weather: snow, frost and fog, all of them drawn, and too much light."""

from __future__ import annotations

import math

import numpy as np

from vitrail.corruptions.common import (
    Image,
    Severity,
    between,
    clouds,
    filtered,
    length,
    line,
    side,
    smoothed,
)


def snow(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Draw flakes that fall, and pale what is behind them."""
    share = (0.02, 0.04, 0.07, 0.10, 0.14)[severity - 1]
    pale = (0.10, 0.15, 0.25, 0.30, 0.35)[severity - 1]
    size = 0.009 * side(image) * (1, 1, 1.3, 1.5, 1.8)[severity - 1]
    field = smoothed(random.normal(size=image.shape[:2]), max(size, 0.4))
    low, high = np.quantile(field, 1 - share), np.quantile(field, 1 - share / 4)
    flakes = np.clip((field - low) / max(high - low, 1e-12), 0, 1)
    falling = random.uniform(0.3, 0.7) * math.pi
    flakes = filtered(flakes, line(length(image, severity, (6, 8, 10, 12, 14)), falling))
    flakes = np.clip(1.6 * flakes, 0, 1)[..., None]
    grey = image.mean(2, keepdims=True)
    paler = (1 - pale) * image + pale * np.maximum(image, 1.5 * grey + 0.4)
    return paler + (1 - paler) * flakes


def frost(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Lay crystals of ice over a darker picture: ridges between clouds."""
    clear = (0.95, 0.85, 0.80, 0.72, 0.68)[severity - 1]
    ice = (0.35, 0.50, 0.60, 0.68, 0.75)[severity - 1]
    shape = image.shape[0], image.shape[1]
    ridges = 1 - np.abs(2 * clouds(shape, random, 0.65) - 1)
    where = clouds(shape, random, 0.5)
    crystals = (ridges**3 * np.clip(0.4 + 1.2 * where, 0, 1))[..., None]
    return clear * image + ice * crystals


def fog(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Put clouds before the picture, which keeps its largest value."""
    thick = between(image, severity, (0.2, 0.5, 0.75, 1.0, 1.5), (1.5, 2.0, 2.5, 2.5, 3.0))
    rough = (0.50, 0.50, 0.55, 0.60, 0.62)[severity - 1]
    most = max(image.max(), 1e-6)
    veil = thick * clouds((image.shape[0], image.shape[1]), random, rough)[..., None]
    return (image + veil) * most / (most + thick)


def brightness(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Add to the value of every pixel, its hue and saturation kept."""
    more = between(image, severity, (0.05, 0.10, 0.15, 0.20, 0.30), (0.1, 0.2, 0.3, 0.4, 0.5))
    value = image.max(2, keepdims=True)
    lighter = np.clip(value + more, 0, 1)
    return np.where(value > 0, image * lighter / np.maximum(value, 1e-12), lighter)
