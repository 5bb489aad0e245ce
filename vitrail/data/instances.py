"""Outlines of objects: each as a small picture in its box, to learn from, and as pixels to judge.

A polygon is drawn in the frame of its box at once; run lengths are read at the places that lie
there. So what is kept of an object does not grow with its image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vitrail.data.boxes import Boxes, Truth, broken
from vitrail.data.masks import BrokenMask
from vitrail.data.outlines import LEAST, filled, points, shape
from vitrail.data.parallel import bar
from vitrail.data.source import Source
from vitrail.errors import DataError
from vitrail.layers.outlines import SIDE

FINER = 4


def with_pictures(source: Source, *, progress: bool = False) -> Source:
    """Return the source with a picture of each object, in the box that its image has for it.

    An image with an outline that cannot be drawn is broken, which the gate tells. Raises DataError
    for boxes without outlines.
    """
    assert source.boxes is not None
    bare = [at for at, one in enumerate(source.boxes.truths) if len(one) and not one.outlines]
    usable = [at for at in bare if not source.boxes.truths[at].fault]
    if usable:
        raise DataError(
            f"{source.origin} has boxes without an outline, such as in "
            f"{source.items[usable[0]].key}: give COCO's JSON with a segmentation for each, or "
            "take --task detection"
        )
    truths = []
    with bar("outlines", len(source.boxes.truths), shown=progress) as advance:
        for one in source.boxes.truths:
            truths.append(_drawn(one))
            advance(1)
    return replace(source, boxes=Boxes(tuple(truths)))


def _drawn(truth: Truth) -> Truth:
    if truth.fault:
        return truth
    try:
        # As the gate will cut them.
        most = np.inf if truth.size is None else np.array([*truth.size[::-1]] * 2)
        boxes = np.clip(truth.boxes, 0, most)
        some = [
            picture(outline, box, at + 1)
            for at, (outline, box) in enumerate(zip(truth.outlines, boxes, strict=True))
        ]
    except BrokenMask as error:
        # What follows on "mask KEY has annotation ..." follows on "has annotations that" here.
        return broken(f"cannot be drawn: it {error.reason}")
    bits = np.packbits(np.array(some, bool).reshape(len(some), SIDE * SIDE), axis=1)
    return replace(truth, pictures=bits)


def picture(outline: Any, box: np.ndarray, name: int) -> np.ndarray:
    """Return which places of a box (4,) in pixels lie in an outline, bool (SIDE, SIDE).

    `outline` has polygons or run lengths as COCO has them, `name` is for what is wrong with it.
    Raises BrokenMask.
    """
    low, high = np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])
    size = np.maximum(high - low, LEAST)
    if isinstance(outline, list):
        # What is drawn is half a pixel wider than its polygon, so it is drawn larger.
        fine = FINER * SIDE
        whole = filled([(points(one, name) - low) / size * fine for one in outline], (fine, fine))
        return whole[FINER // 2 :: FINER, FINER // 2 :: FINER]
    sides = outline.get("size") if isinstance(outline, Mapping) else None
    pair = isinstance(sides, list) and len(sides) == 2 and all(type(n) is int for n in sides)
    whole = shape(outline, (sides[0], sides[1]) if pair else (0, 0), name)  # pyright: ignore
    centres = (np.arange(SIDE) + 0.5) / SIDE
    x, y = ((low[i] + centres * size[i]).astype(np.int64) for i in range(2))
    there = np.outer((y >= 0) & (y < whole.shape[0]), (x >= 0) & (x < whole.shape[1]))
    return whole[np.clip(y, 0, len(whole) - 1)][:, np.clip(x, 0, whole.shape[1] - 1)] & there


def pictures(truth: Truth) -> np.ndarray:
    """Return the pictures of an image's objects, float32 (n, SIDE * SIDE)."""
    if truth.pictures is None or not len(truth):
        return np.zeros((0, SIDE * SIDE), np.float32)
    return np.unpackbits(truth.pictures, axis=1).astype(np.float32)
