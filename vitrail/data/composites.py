"""Composites with exact masks: garments of the bundled sample on drawn canvases, overlapping.

They are no photographs: the garments are Fashion-MNIST's own pixels, tinted and enlarged, the
canvases are smooth colours with a pattern and noise, and the mask follows from what was drawn. They
try and compare networks of maps where no annotated photographs are at hand, and show nothing more.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.data.builtin import BUILTIN
from vitrail.errors import ConfigError

# Garments are bright on black; what is darker than this is not of them.
DARK = 24


@dataclass(frozen=True)
class Composites:
    """What is drawn: `n` pictures of (height, width) `image` with `least` to `most` garments of the
    first `kinds` kinds, each `scale` times its 28 pixels. Raises ConfigError."""

    n: int = 200
    image: tuple[int, int] = (64, 64)
    kinds: int = 10
    least: int = 1
    most: int = 4
    scale: tuple[float, float] = (0.8, 1.6)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or min(self.image) < 16 or not 1 <= self.kinds <= 10:
            raise ConfigError(
                f"composites are {self.n} of {self.image} with {self.kinds} kinds: give one at "
                "least, sides from 16 and 1 to 10 kinds"
            )
        if not 0 <= self.least <= self.most or not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"composites have {self.least} to {self.most} garments at {self.scale}: give the "
                "smaller number first"
            )


def write(folder: str | os.PathLike, what: Composites) -> Path:
    """Draw composites into `folder`: images/, masks/ and classes.txt; returns the folder.

    The same values give the same files.
    """
    root = Path(folder)
    source = BUILTIN["fashion-sample"](None)
    assert source.pixels is not None
    labels = np.array([item.label for item in source.items])
    names = ["background", *source.classes[: what.kinds]]
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    cutouts = [source.pixels[labels == label] for label in range(what.kinds)]
    for number in range(what.n):
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((what.seed, number))))
        image, mask = compose(cutouts, what, random)
        Image.fromarray(image).save(root / "images" / f"{number:05}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:05}.png")
    return root


def compose(
    cutouts: Sequence[np.ndarray], what: Composites, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture, uint8 (H, W, 3), and its mask (H, W): 0 is the canvas, k garment k - 1.

    `cutouts` are the uint8 pictures (N, 28, 28) of each kind; later garments lie over earlier ones.
    """
    height, width = what.image
    image, mask = _canvas(what.image, random), np.zeros(what.image, np.uint8)
    for _ in range(random.integers(what.least, what.most + 1)):
        kind = int(random.integers(len(cutouts)))
        garment = cutouts[kind][random.integers(len(cutouts[kind]))]
        side = max(8, round(28 * random.uniform(*what.scale)))
        resized = Image.fromarray(garment).resize((side, side), Image.Resampling.BILINEAR)
        values = np.asarray(resized, np.float32)
        tint = random.uniform(0.35, 1.0, 3).astype(np.float32)
        top = int(random.integers(-side // 4, height - 3 * side // 4 + 1))
        left = int(random.integers(-side // 4, width - 3 * side // 4 + 1))
        rows = slice(max(0, top), min(height, top + side))
        columns = slice(max(0, left), min(width, left + side))
        cut = values[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        shown = cut >= DARK
        image[rows, columns][shown] = cut[shown][:, None] * tint
        mask[rows, columns][shown] = kind + 1
    noise = random.normal(0, 4, image.shape).astype(np.float32)
    return (image + noise).clip(0, 255).astype(np.uint8), mask


def _canvas(image: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Draw a smooth canvas with stripes: float32 (H, W, 3)."""
    height, width = image
    small = random.uniform(20, 200, (3, 3, 3)).astype(np.uint8)
    smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    angle, pace = random.uniform(0, np.pi), random.uniform(0.15, 0.8)
    wave = np.sin(pace * (np.cos(angle) * across + np.sin(angle) * down))
    stripes = random.uniform(0, 25) * wave[..., None]
    return (np.asarray(smooth, np.float32) + stripes).astype(np.float32)
