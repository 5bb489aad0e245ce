"""The one decoder: the bytes of an image file to upright 8-bit pixels, nothing saturated.

The data gate, the cache and prediction all read images through this file, so that what was
inspected is what is trained on and what is predicted from.
"""

import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from vitrail.errors import DataError

# Part of the cache's key: raised whenever the pixels that `decode` returns change.
DECODER = 1

# EPS and its like start other programs, and TGA has no signature: they are left out.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000", "ICO",
)  # fmt: skip

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImage(DataError):
    """Bytes that are no complete image; `kind` is one of
    "empty", "not an image", "truncated", "bomb", "broken", "unreadable", "oversized"."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright image in Pillow's mode L or RGB, and what its file was like.

    `mode` is one of "grey", "colour", "palette", "bilevel", "16-bit", "32-bit", "float", "CMYK",
    "other"; `orientation` the EXIF value 1-8; `stretched` says that the values had no known
    range, so that the image's own minimum and maximum became 0 and 255; `dim` that a 16-bit
    image uses less than 1/8 of its range (12-bit data, as a rule).
    """

    image: Image.Image
    format: str
    mode: str
    alpha: bool = False
    animated: bool = False
    orientation: int = 1
    stretched: bool = False
    dim: bool = False


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def read_picture(data: bytes) -> Picture:
    """Decode the first frame of an image file wholly.

    Raises `BrokenImage` with the reason, whatever is wrong with the bytes.
    """
    if not data:
        raise BrokenImage("empty", "is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.UnidentifiedImageError:
        raise BrokenImage("not an image", "is not an image that can be identified") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImage("bomb", _bomb(error)) from None
    except Exception as error:
        # Pillow's parsers raise whatever the bytes make them stumble over.
        raise BrokenImage("broken", f"has a broken header ({_short(error)})") from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise BrokenImage("bomb", _bomb(f"{image.width}x{image.height} pixels"))
    try:
        image.load()
        return _upright(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImage("bomb", _bomb(error)) from None
    except Exception as error:
        text = str(error).lower()
        if "truncated" in text or "end of file" in text or isinstance(error, EOFError):
            raise BrokenImage("truncated", f"is truncated ({_short(error)})") from error
        raise BrokenImage("broken", f"cannot be decoded ({_short(error)})") from error


def decode_full(data: bytes, channels: int) -> np.ndarray:
    """The bytes of an image file to uint8 (h, w, channels) at the file's own size.

    `channels` is 1 (ITU-R 601 luma) or 3 (RGB). EXIF rotation is applied, 16-bit values are
    scaled by 255/65535, transparency is laid over white, of animations the first frame is
    taken. Raises `BrokenImage`.
    """
    return _pixels(read_picture(data), channels)


def decode(data: bytes, image: tuple[int, int], channels: int) -> np.ndarray:
    """The bytes of an image file to uint8 (H, W, channels) at the size `image` = (H, W).

    Antialiased bilinear resize on uint8, as torchvision does it; the aspect ratio is not kept.
    Raises `BrokenImage`.
    """
    return resize(decode_full(data, channels)[None], image)[0]


def resize(images: np.ndarray, image: tuple[int, int]) -> np.ndarray:
    """uint8 (N, h, w, C) to uint8 (N, H, W, C), antialiased bilinear.

    Torchvision's resize of uint8 tensors without the seconds that importing it takes.
    """
    if images.shape[1:3] == tuple(image):
        return images
    import torch
    from torch.nn.functional import interpolate

    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    out = interpolate(tensor, tuple(image), mode="bilinear", antialias=True)
    return np.ascontiguousarray(out.permute(0, 2, 3, 1).numpy())


def _pixels(picture: Picture, channels: int) -> np.ndarray:
    if channels not in (1, 3):
        raise DataError(f"channels is {channels}: images have 1 (grey) or 3 (RGB)")
    image = picture.image.convert("L" if channels == 1 else "RGB")
    return np.array(image).reshape(image.height, image.width, channels)


def _upright(image: Image.Image) -> Picture:
    form, mode = image.format or "", image.mode
    orientation = _orientation(image)
    # Phones add a preview to a JPEG (MPO): that is no animation.
    animated = form != "MPO" and bool(getattr(image, "is_animated", False))
    kind, stretched, dim = _kind(mode), False, False
    alpha = mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    if mode.startswith("I;16") or mode in ("I", "F"):
        image, kind, stretched, dim = _to_eight_bits(image)
        alpha = False
    elif alpha:
        image = _over_white(image)
    elif mode not in ("L", "RGB"):
        image = image.convert("L" if mode == "1" else "RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return Picture(image, form, kind, alpha, animated, orientation, stretched, dim)


def _kind(mode: str) -> str:
    names = {"1": "bilevel", "L": "grey", "LA": "grey", "La": "grey", "RGB": "colour"}
    names |= {"RGBA": "colour", "RGBa": "colour", "RGBX": "colour", "YCbCr": "colour"}
    names |= {"P": "palette", "PA": "palette", "CMYK": "CMYK"}
    return names.get(mode, "other")


def _over_white(image: Image.Image) -> Image.Image:
    grey = image.mode in ("L", "LA", "La", "1")
    rgba = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return flat.convert("L" if grey else "RGB")


def _to_eight_bits(image: Image.Image) -> tuple[Image.Image, str, bool, bool]:
    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    stretched = dim = False
    if image.mode == "F" and low >= 0 and high <= 1:
        kind, scale, low = "float", 255.0, 0.0
    elif image.mode == "F" and low >= 0 and high <= 255:
        kind, scale, low = "float", 1.0, 0.0
    elif image.mode != "F" and low >= 0 and high <= 65535:
        kind, scale, low, dim = "16-bit", 255 / 65535, 0.0, 0 < high < 8192
    else:
        kind, stretched = ("float" if image.mode == "F" else "32-bit"), True
        scale = 255 / (high - low) if high > low else 0.0
    eight = np.round((values.astype(np.float64) - low) * scale).astype(np.uint8)
    return Image.fromarray(eight), kind, stretched, dim


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # A damaged EXIF block is no reason to lose the pixels, which were decoded before.
        return 1
    return value if value in range(1, 9) else 1


def _bomb(what: object) -> str:
    return f"is larger than Pillow's limit against decompression bombs ({_short(what)})"


def _short(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
