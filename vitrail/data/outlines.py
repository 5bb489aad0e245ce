"""Polygons and run lengths of COCO's annotations, drawn as masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vitrail.data.masks import IGNORE, MOST_PIXELS, BrokenMask
from vitrail.units import shortened

KIND = "annotation"
# A frame with less of a pixel on a side holds nothing.
LEAST = 1e-6


@dataclass(frozen=True)
class Drawing:
    """What is drawn on an image of `size` (height, width): annotations as COCO has them, and the
    class of each category's id."""

    size: tuple[Any, Any]
    annotations: tuple[Mapping[str, Any], ...]
    ids: Mapping[Any, int] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Outlines:
    """Masks that are drawn of annotations, one for each image of `names`."""

    drawings: tuple[Drawing, ...] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    def keys(self) -> Sequence[str]:
        """Return the images, whose annotations the masks are."""
        return self.names

    def read(self, row: int) -> np.ndarray:
        """Draw a mask, uint8 (H, W), the larger objects first. Raises BrokenMask."""
        drawing = self.drawings[row]
        height, width = drawing.size
        whole = type(height) is int and type(width) is int
        if not whole or height < 1 or width < 1 or height * width > MOST_PIXELS:
            raise BrokenMask(KIND, f"is of an image of {width} x {height} pixels, as it is listed")
        mask = np.zeros((height, width), np.uint8)
        drawn = [
            (one, shape(one.get("segmentation"), (height, width), one.get("id")))
            for one in drawing.annotations
        ]
        # Crowds are under everything: an object inside of one still counts.
        drawn.sort(key=lambda pair: (not pair[0].get("iscrowd"), -int(pair[1].sum())))
        for one, inside in drawn:
            category = one.get("category_id")
            if not isinstance(category, int) or category not in drawing.ids:
                raise BrokenMask(
                    KIND,
                    f"has annotation {one.get('id')} of category {shortened(str(category))}, which "
                    "is none",
                )
            mask[inside] = IGNORE if one.get("iscrowd") else drawing.ids[category]
        return mask


def shape(segmentation: Any, size: tuple[int, int], name: Any) -> np.ndarray:
    """Return the pixels of one object, bool (H, W), of polygons or run lengths.

    `name` is the annotation's id, for what is wrong with it. Raises BrokenMask.
    """
    if isinstance(segmentation, Mapping):
        inside = _of_runs(segmentation, size, name)
    elif isinstance(segmentation, list) and segmentation:
        inside = _of_polygons(segmentation, size, name)
    else:
        raise BrokenMask(KIND, f"has annotation {name} without an outline")
    if not inside.any():
        raise BrokenMask(KIND, f"has annotation {name}, which covers no pixel of the image")
    return inside


def _of_polygons(polygons: list[Any], size: tuple[int, int], name: Any) -> np.ndarray:
    height, width = size
    return filled([points(one, name) for one in polygons], (height, width))


def points(polygon: Any, name: Any) -> np.ndarray:
    """Return the corners (n, 2) of a polygon of annotation `name`. Raises BrokenMask."""
    numbers = isinstance(polygon, list) and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) for one in polygon
    )
    if not numbers or len(polygon) < 6 or len(polygon) % 2:
        raise BrokenMask(KIND, f"has annotation {name} with a polygon of no three points (x, y)")
    try:
        flat = np.asarray(polygon, np.float64)
    except OverflowError:  # JSON has whole numbers of any length
        flat = np.array([np.inf])
    if not np.isfinite(flat).all():
        raise BrokenMask(KIND, f"has annotation {name} with a point that is not a number")
    return np.clip(flat, -1e6, 1e6).reshape(-1, 2)


def filled(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return which pixels lie in polygons (n, 2), bool (H, W).

    A pixel is inside where its centre is, as COCO counts from the corner of the first one.
    """
    canvas = Image.new("1", (size[1], size[0]))
    brush = ImageDraw.Draw(canvas)
    for corners in polygons:
        brush.polygon([tuple(pair) for pair in (corners - 0.5).tolist()], fill=1)
    return np.asarray(canvas)


def _of_runs(rle: Mapping[str, Any], size: tuple[int, int], name: Any) -> np.ndarray:
    """Fill a mask from runs of pixels outside and inside in turns, down the columns."""
    counts = rle.get("counts")
    if list(rle.get("size", ())) != list(size):
        raise BrokenMask(
            KIND,
            f"has annotation {name} of size {rle.get('size')}, where the image is {list(size)}",
        )
    runs: list[int] = runs_of(counts) if isinstance(counts, str) else []
    if isinstance(counts, list) and all(type(run) is int for run in counts):
        runs = counts
    if not runs or min(runs) < 0 or sum(runs) != size[0] * size[1]:
        raise BrokenMask(KIND, f"has annotation {name} whose run lengths do not fill the image")
    inside = np.zeros(len(runs), bool)
    inside[1::2] = True
    return inside.repeat(runs).reshape(size[::-1]).T


def runs_of(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed form: six bits a letter, five of them of the
    number, from the third number on the difference to the one before the last.

    Examples:
        >>> from vitrail.data.outlines import runs_of
        >>> runs_of("52203")
        [5, 2, 2, 2, 5]
    """
    runs: list[int] = []
    number = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        number |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    return runs


def runs(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask, bool (H, W): pixels outside and inside in turns, down the
    columns, as COCO has them.

    Examples:
        >>> import numpy as np
        >>> from vitrail.data.outlines import runs
        >>> runs(np.array([[False, True], [False, True]]))
        [2, 2]
        >>> runs(np.array([[True, True], [False, True]]))
        [0, 1, 1, 2]
    """
    flat = mask.T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(ends, prepend=0, append=len(flat)).tolist()
    return [0, *lengths] if len(flat) and flat[0] else lengths


def pasted(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the pixels of an image (H, W) that a mask (h, w), from 0 to 1 over a box (4,) in
    pixels, holds for an object's: bool (H, W), where it is a half or more.

    Examples:
        >>> import numpy as np
        >>> from vitrail.data.outlines import pasted
        >>> pasted(np.ones((28, 28)), np.array([1.0, 0.0, 3.0, 1.0]), (2, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    found = np.zeros(size, bool)
    first = np.clip(np.floor(box[:2]), 0, size[::-1]).astype(int)
    last = np.clip(np.ceil(box[2:]), 0, size[::-1]).astype(int)
    if (last <= first).any():
        return found
    framed = np.pad(np.asarray(mask, np.float64), 1)
    near = []
    for i, side in enumerate(mask.shape[::-1]):
        at = (np.arange(first[i], last[i]) + 0.5 - box[i]) / max(box[2 + i] - box[i], LEAST) * side
        at = np.clip(at + 0.5, 0, side + 1 - 1e-9)
        near.append((at.astype(int), at % 1))
    (x, right), (y, down) = near
    upper = framed[y][:, x] * (1 - right) + framed[y][:, x + 1] * right
    lower = framed[y + 1][:, x] * (1 - right) + framed[y + 1][:, x + 1] * right
    inside = upper * (1 - down)[:, None] + lower * down[:, None] >= 0.5
    found[first[1] : last[1], first[0] : last[0]] = inside
    return found
