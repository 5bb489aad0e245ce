"""The fifteen corruptions by name, and whole batches of pictures under one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8

from vitrail.config import nearest
from vitrail.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from vitrail.corruptions.common import SEVERITIES, Image, Severity
from vitrail.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from vitrail.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from vitrail.corruptions.weather import brightness, fog, frost, snow
from vitrail.errors import ConfigError

Corruption = Callable[[Image, Severity, np.random.Generator], Image]

CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType({
    "gaussian_noise": gaussian_noise, "shot_noise": shot_noise, "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur, "glass_blur": glass_blur, "motion_blur": motion_blur,
    "zoom_blur": zoom_blur, "snow": snow, "frost": frost, "fog": fog, "brightness": brightness,
    "contrast": contrast, "elastic_transform": elastic_transform, "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
})  # fmt: skip


def corrupted(
    images: UInt8[np.ndarray, "n h w c"],
    name: str,
    severity: Severity,
    *,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "n h w c"]:
    """Return uint8 images under the corruption `name` at a severity from 1 to 5.

    What is random depends on the seed, the corruption, the severity and the image's number in
    `rows` (by default 0, 1, 2 ...), so that any share of the images comes out as in the whole.
    Raises ConfigError for a name or a severity that does not exist.

    Examples:
        >>> images = np.zeros((2, 32, 32, 3), np.uint8)
        >>> vitrail.corruptions.corrupted(images, "fog", 3).shape
        (2, 32, 32, 3)
    """
    if name not in CORRUPTIONS:
        raise ConfigError(f"corruption {name!r} does not exist: {nearest(name, [*CORRUPTIONS])}")
    if severity not in SEVERITIES:
        raise ConfigError(f"severity {severity} of {name} does not exist: give 1 to 5")
    corruption, number = CORRUPTIONS[name], list(CORRUPTIONS).index(name)
    out = np.empty_like(images)
    for at, row in enumerate(range(len(images)) if rows is None else rows):
        words = np.random.SeedSequence((seed, number, severity, row))
        random = np.random.Generator(np.random.Philox(words))
        found = corruption(images[at] / 255, severity, random)
        out[at] = np.floor(np.clip(found, 0, 1) * 255 + 0.5)
    return out
