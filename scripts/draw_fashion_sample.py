"""Draws the bundled sample of Fashion-MNIST from the files of Debian's dataset-fashion-mnist.

600 training and 100 test images of each class, drawn without replacement by a seeded generator
and laid out as one contact sheet per part, class after class:

    apt install dataset-fashion-mnist
    python scripts/draw_fashion_sample.py
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.data.builtin import CLASSES, DEBIAN, SAMPLES, SIDE, fashion_pair

SEED = 20170825
PER_CLASS = {"train": 600, "test": 100}
COLUMNS = {"train": 100, "test": 50}
COPYRIGHT = Path("/usr/share/doc/dataset-fashion-mnist/copyright")


def draw(images: np.ndarray, labels: np.ndarray, per_class: int, columns: int) -> Image.Image:
    """A contact sheet with `per_class` images of each class, in the order of the full set."""
    random = np.random.RandomState(SEED)  # its stream is frozen for good, unlike Generator's
    rows = [
        np.sort(random.permutation(np.flatnonzero(labels == label))[:per_class])
        for label in range(len(CLASSES))
    ]
    tiles = images[np.concatenate(rows)].reshape(-1, columns, SIDE, SIDE)
    sheet = tiles.swapaxes(1, 2).reshape(len(tiles) * SIDE, columns * SIDE)
    return Image.fromarray(sheet)


def main(folder: Path) -> None:
    """Write the two sheets and the notice to `folder`."""
    for part, per_class in PER_CLASS.items():
        sheet = draw(*fashion_pair(DEBIAN, part), per_class, COLUMNS[part])
        path = folder / f"fashion_{part}.png"
        sheet.save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    shutil.copyfile(COPYRIGHT, folder / "NOTICE")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
