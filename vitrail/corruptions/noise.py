"""Noise of sensors and wires: Gaussian, shot, impulses."""

from __future__ import annotations

import numpy as np

from vitrail.corruptions.common import Image, Severity, between


def gaussian_noise(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Add normal noise, as of little light."""
    sigma = between(image, severity, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
    return image + random.normal(0, sigma, image.shape)


def shot_noise(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Count photons, of which white has ever fewer."""
    photons = between(image, severity, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3))
    return random.poisson(image * photons) / photons


def impulse_noise(image: Image, severity: Severity, random: np.random.Generator) -> Image:
    """Turn single values black or white, as bits that flip do."""
    share = between(image, severity, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))
    hit, white = random.random(image.shape) < share, random.random(image.shape) < 0.5
    return np.where(hit, white.astype(float), image)
