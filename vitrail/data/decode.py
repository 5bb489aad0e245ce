"""The one decoder: the bytes of an image file to upright 8-bit pixels.

The data gate, the cache and prediction all read images through this file, so that what was
inspected is what is trained on and what is predicted from.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vitrail.data.depth import Range
from vitrail.data.formats import BrokenImage, read_file
from vitrail.data.picture import Picture, of_image, read_picture, reading
from vitrail.errors import DataError

__all__ = [
    "BrokenImage", "Picture", "decode", "decode_full", "decode_image", "read_file", "read_picture",
    "reading", "resize",
]  # fmt: skip

# Part of the cache's key: raised whenever the pixels that `decode` returns change.
DECODER = 2


def decode_full(data: bytes, channels: int, ranges: Sequence[Range] = ()) -> np.ndarray:
    """Decode the bytes of an image file to uint8 (h, w, channels) at the file's own size.

    `channels` is 1 (ITU-R 601 luma) or 3 (RGB). EXIF rotation is applied, values of more than
    8 bits are scaled by `ranges`, transparency is laid over white, of animations the first frame
    is taken. Raises `BrokenImage`.
    """
    with reading(data, ranges) as picture:
        return _array(picture.image, channels)


def decode(
    data: bytes, image: tuple[int, int], channels: int, ranges: Sequence[Range] = ()
) -> np.ndarray:
    """Decode the bytes of an image file to uint8 (H, W, channels) at the size `image` = (H, W).

    Antialiased bilinear resize on uint8, as torchvision does it; the aspect ratio is not kept.
    Raises `BrokenImage`.
    """
    with reading(data, ranges) as picture:
        return _resized(picture.image, image, channels)


def decode_image(
    picture: Image.Image, image: tuple[int, int], channels: int, ranges: Sequence[Range] = ()
) -> np.ndarray:
    """Turn a Pillow image of any mode into uint8 (H, W, channels), as `decode` does its file.

    Raises `BrokenImage`.
    """
    return _resized(of_image(picture, ranges).image, image, channels)


def resize(images: np.ndarray, image: tuple[int, int]) -> np.ndarray:
    """Resize uint8 (N, h, w, C) to uint8 (N, H, W, C), antialiased bilinear.

    Torchvision's resize of uint8 tensors without the seconds that importing it takes.
    """
    if images.shape[1:3] == tuple(image):
        return images
    import torch
    from torch.nn.functional import interpolate

    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    out = interpolate(tensor, tuple(image), mode="bilinear", antialias=True)
    return np.ascontiguousarray(out.permute(0, 2, 3, 1).numpy())


def _resized(picture: Image.Image, image: tuple[int, int], channels: int) -> np.ndarray:
    if picture.mode != "L":
        return resize(_array(picture, channels)[None], image)[0]
    # Grey images are resized before they get three equal channels, in a third of the memory.
    grey = resize(_array(picture, 1)[None], image)[0]
    return _array(Image.fromarray(grey[..., 0]), channels)


def _array(image: Image.Image, channels: int) -> np.ndarray:
    if channels not in (1, 3):
        raise DataError(f"channels is {channels}: images have 1 (grey) or 3 (RGB)")
    mode = "L" if channels == 1 else "RGB"
    wanted = image if image.mode == mode else image.convert(mode)
    return np.array(wanted).reshape(image.height, image.width, channels)
