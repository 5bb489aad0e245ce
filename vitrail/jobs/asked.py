"""What a run is asked about: files, bytes, images and arrays, each with a name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from vitrail.data.decode import BrokenImage
from vitrail.errors import ConfigError

# A file, the bytes of one, an image of Pillow's, or uint8 (H, W) or (H, W, 1, 3 or 4).
Picture: TypeAlias = "str | os.PathLike | bytes | bytearray | memoryview | np.ndarray | Image.Image"


def asked(images: Any, top: int, item: str = "image") -> list[tuple[str, Picture]]:
    """Return what is asked about, named, as an `item` if it is not a file. Raises ConfigError."""
    if top < 1:
        raise ConfigError(f"top is {top}: ask for one class at least")
    return _named(images, item)


def _named(images: Any, item: str) -> list[tuple[str, Picture]]:
    """Return each image with its path, or with its number from 1. Raises ConfigError."""
    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    if isinstance(images, one) or (isinstance(images, np.ndarray) and images.ndim != 4):
        images = [images]
    if not isinstance(images, Iterable):
        raise ConfigError(_unknown("what is asked about", images))
    named: list[tuple[str, Picture]] = []
    for number, image in enumerate(images, 1):
        if not isinstance(image, (*one, np.ndarray)):
            raise ConfigError(_unknown(f"{item} {number}", image))
        is_path = isinstance(image, (str, os.PathLike))
        named.append((os.fsdecode(image) if is_path else f"{item} {number}", image))
    return named


def _unknown(what: str, image: object) -> str:
    return (
        f"{what} is of type {type(image).__name__}: give paths, bytes, Pillow images or arrays of "
        "uint8 (H, W) or (H, W, 3)"
    )


def from_array(values: np.ndarray) -> Image.Image:
    """Return an array as an image. Raises BrokenImage for one of another shape or type."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    deep = values.ndim == 2 and values.dtype in (np.uint16, np.int32, np.float32)
    flat = values.dtype == np.uint8 and (values.ndim == 2 or values.shape[2:] in ((3,), (4,)))
    if not values.size or not (deep or flat):
        reason = f"is an array of {values.dtype} {values.shape}, not of uint8 (H, W) or (H, W, 3)"
        raise BrokenImage("unread", reason)
    return Image.fromarray(np.ascontiguousarray(values))
