"""The pieces of an image that are hidden in turn, to see what an answer rests on.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv
1311.2901. A piece is a fifth of the image, moved by half its width: fine enough to see a sleeve,
coarse enough that hiding one matters.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PLACES = 9


def spans(side: int) -> list[slice]:
    """Return the overlapping pieces that cover a side of so many pixels."""
    size = max(1, round(2 * side / (PLACES + 1)))
    starts = np.linspace(0, side - size, min(PLACES, side)).round().astype(int)
    return [slice(int(s), int(s) + size) for s in starts]


def hidden(image: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an image uint8 (H, W, C) with each of its pieces in the image's mean colour, row by
    row: one for each pair of `spans`."""
    grey = image.mean((0, 1)).round().astype(np.uint8)
    for y in spans(image.shape[0]):
        for x in spans(image.shape[1]):
            copy = image.copy()
            copy[y, x] = grey
            yield copy
