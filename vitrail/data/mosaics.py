"""Several images side by side as one, so that objects are seen smaller and beside others.

Minderer et al., "Simple Open-Vocabulary Object Detection with Vision Transformers", ECCV 2022,
arXiv 2205.06230: grids of 1, 4 and 9 images in shares of 0.4, 0.3 and 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIDES, SHARES = (1, 2, 3), (0.4, 0.3, 0.3)


@dataclass(frozen=True, eq=False)
class Tile:
    """An image uint8 (H, W, C) with the boxes of its objects (M, 4), (cx, cy, w, h) as shares of
    it, their kinds (M,), and kinds that it is known not to show."""

    image: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray
    absent: frozenset[int] = frozenset()


def side(random: np.random.Generator) -> int:
    """Draw how many images lie side by side: 1, 2 or 3."""
    return int(random.choice(SIDES, p=SHARES))


def mosaic(tiles: Sequence[Tile]) -> Tile:
    """Return the n x n images of one size as one of n times their sides, row by row.

    Boxes are moved and divided by n. Absent from it is what some tile is known not to show and no
    tile shows. Raises ValueError for images of several sizes, or a number that is not a square.

    Examples:
        >>> import numpy as np
        >>> box, kind = np.array([[0.5, 0.5, 1.0, 1.0]]), np.array([3])
        >>> tiles = [Tile(np.full((4, 4, 3), n, np.uint8), box, kind) for n in range(4)]
        >>> made = mosaic(tiles)
        >>> made.image.shape, made.boxes[3].tolist()
        ((8, 8, 3), [0.75, 0.75, 0.5, 0.5])
    """
    n = round(len(tiles) ** 0.5)
    if not tiles or n * n != len(tiles):
        raise ValueError(f"{len(tiles)} images make no square: give 1, 4 or 9")
    sizes = {tile.image.shape for tile in tiles}
    if len(sizes) > 1:
        raise ValueError(f"images are of sizes {sorted(sizes)}: resize them to one")
    rows = [np.concatenate([t.image for t in tiles[n * r : n * r + n]], 1) for r in range(n)]
    boxes = []
    for at, tile in enumerate(tiles):
        moved = tile.boxes.reshape(-1, 4).astype(np.float64)
        moved[:, 0] += at % n
        moved[:, 1] += at // n
        boxes.append(moved / n)
    kinds = np.concatenate([tile.kinds for tile in tiles])
    absent = frozenset().union(*(tile.absent for tile in tiles)) - set(kinds.tolist())
    return Tile(np.concatenate(rows), np.concatenate(boxes), kinds, absent)
