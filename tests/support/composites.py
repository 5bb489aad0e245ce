"""A tiny folder of images with masks, drawn without any sample: squares and discs on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("background", "square", "disc")


def picture(seed: int, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image uint8 (side, side + 8, 3) and its mask: 1 are red squares, 2 green discs."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 70, (side, side + 8, 3)).astype(np.uint8)
    mask = np.zeros(image.shape[:2], np.uint8)
    down, across = np.mgrid[: mask.shape[0], : mask.shape[1]]
    for label in random.permutation([1, 2])[: 1 + seed % 2]:
        y, x, r = random.integers(8, side - 8), random.integers(8, side), random.integers(5, 9)
        far = np.maximum(abs(down - y), abs(across - x)) if label == 1 else None
        inside = far <= r if far is not None else (down - y) ** 2 + (across - x) ** 2 <= r * r
        image[inside] = (220, 40, 40) if label == 1 else (40, 220, 40)
        mask[inside] = label
    return image, mask


def write(root: Path, n: int = 40, *, named: bool = True, side: int = 32) -> Path:
    """Write `n` of them to root/images and root/masks, with classes.txt where `named`."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        image, mask = picture(i, side)
        Image.fromarray(image).save(root / "images" / f"{i:03}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:03}.png")
    if named:
        (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root
