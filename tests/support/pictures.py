"""Photograph-like test images, and folders of them."""

from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, height: int = 40, width: int = 48) -> Image.Image:
    """A smooth random RGB image, unlike that of any other seed."""
    small = np.random.RandomState(seed).randint(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def grey(seed: int, height: int = 28, width: int = 28) -> Image.Image:
    return photo(seed, height, width).convert("L")


def write_classes(root: Path, counts: dict[str, int], draw=photo, suffix: str = ".png") -> Path:
    """`counts` images in each class folder; the first seed of a class follows the last one's."""
    seed = 0
    for name, n in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            draw(seed).save(root / name / f"{i:03d}{suffix}")
            seed += 1
    return root
