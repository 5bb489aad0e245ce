"""Composites with a box around each garment, which the studies of boxes share.

Garments of the bundled sample of Fashion-MNIST, tinted and enlarged, lie on drawn canvases and
hardly over each other, so what a network finds in them says nothing of photographs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitrail.data.builtin import BUILTIN
from vitrail.data.composites import DARK, Composites, compose
from vitrail.data.mosaics import Tile

SIDE, MOST = 64, 4
# Boxes that share more of the smaller one are not drawn.
OVER = 0.3


def cutouts(part: str) -> tuple[Sequence[np.ndarray], tuple[str, ...]]:
    """Return the garments of each kind in a part of the bundled sample, and the names."""
    source = BUILTIN["fashion-sample"](None)
    assert source.pixels is not None
    rows = [at for at, item in enumerate(source.items) if item.part == part]
    labels = np.array([source.items[at].label for at in rows])
    found = [source.pixels[rows][labels == label] for label in range(len(source.classes))]
    return found, source.classes


def drawn(
    kinds: Sequence[np.ndarray], allowed: Sequence[int], random: np.random.Generator,
    *, side: int = SIDE, most: int = MOST,
) -> Tile:  # fmt: skip
    """Draw a picture of one to `most` garments of some kinds; its boxes are corners in pixels."""
    canvas, _ = compose(kinds, Composites(1, (side, side), least=0, most=0), random)
    boxes: list[tuple[int, int, int, int]] = []
    found = []
    for _ in range(int(random.integers(1, most + 1))):
        kind = int(random.choice(allowed))
        garment = kinds[kind][random.integers(len(kinds[kind]))]
        wide = round(28 * random.uniform(0.7, 1.2))
        values = np.asarray(Image.fromarray(garment).resize((wide, wide)), np.float32)
        top, left = (int(n) for n in random.integers(0, side - wide + 1, 2))
        tint = random.uniform(0.35, 1.0, 3).astype(np.float32)
        shown = values >= DARK
        if not shown.any():
            continue
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        box = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
        if any(_over(box, other) > OVER for other in boxes):
            continue
        canvas[top : top + wide, left : left + wide][shown] = values[shown][:, None] * tint
        boxes.append(box)
        found.append(kind)
    return Tile(canvas, np.array(boxes, np.float64).reshape(-1, 4), np.array(found, np.int64))


def _over(one: Sequence[int], other: Sequence[int]) -> float:
    """Return which share of the smaller box both have."""
    sides = [min(one[n + 2], other[n + 2]) - max(one[n], other[n]) for n in range(2)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return max(0, sides[0]) * max(0, sides[1]) / min(areas)


def write(
    folder: Path, part: str, tiles: Iterable[Tile], names: Sequence[str], *, told: bool = False
) -> None:
    """Write pictures as a part of a folder in COCO's form; `told` adds of each picture the kinds
    that it is known not to show, as LVIS does."""
    pictures: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    (folder / "images" / part).mkdir(parents=True, exist_ok=True)
    for at, tile in enumerate(tiles):
        name = f"images/{part}/{at:05}.png"
        Image.fromarray(tile.image).save(folder / name)
        height, width = tile.image.shape[:2]
        pictures.append({"id": at, "file_name": name, "height": height, "width": width})
        if told:
            pictures[-1]["neg_category_ids"] = sorted(tile.absent)
        for (x0, y0, x1, y1), kind in zip(tile.boxes.tolist(), tile.kinds.tolist(), strict=True):
            one = {"id": len(boxes), "image_id": at, "category_id": kind}
            boxes.append({**one, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    categories = [{"id": at, "name": name} for at, name in enumerate(names)]
    content = {"images": pictures, "annotations": boxes, "categories": categories}
    (folder / f"instances_{part}.json").write_text(json.dumps(content))
