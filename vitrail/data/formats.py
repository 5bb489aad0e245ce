"""Which image formats are read, and what a file is before any of it is decoded."""

import ctypes
import io
import logging
import os
import stat
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image
from PIL.ImageFile import ImageFile

from vitrail import files
from vitrail.data import magic
from vitrail.errors import DataError, extra

# A file that is larger is not a photograph; it would only fill the memory.
OVERSIZED_BYTES = 1 << 30

# EPS and its like start other programs, and TGA has no signature: they are left out. HEIF is
# there where its package is installed.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000", "ICO",
    "HEIF",
)  # fmt: skip

_HEAD_BYTES = 1024


class BrokenImage(DataError):
    """A file that is not a complete image; `kind` is one of "empty", "not an image", "truncated",
    "bomb", "broken", "unreadable", "oversized", "unread", "no values", or one of
    `magic.UNREAD`, the formats that cannot be read here."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@cache
def known() -> tuple[str, ...]:
    """Return the names in Pillow of the formats that are read with what is installed."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    _quieten()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _quieten() -> None:
    """Keep Pillow and libtiff from telling the terminal of damage,
    which is told in reasons here.
    """
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # Appended, so that whoever wants to see the warnings still can.
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
    try:
        handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):
        return  # Pillow was built without libtiff, or has swallowed its names
    handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    handler(None)


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that are read, in lower case: ".jpg", ".jfif" ..."""
    formats = known()
    return frozenset(end for end, form in Image.registered_extensions().items() if form in formats)


def remedy(name: str) -> str:
    """Say what to do with images of a format in `magic.UNREAD`, after "which"."""
    convert = "convert them to JPEG, PNG or TIFF"
    if name != "HEIC":
        return f"vitrail does not read: {convert}"
    if "HEIF" in known():
        return f"pillow-heif cannot read, as if damaged: make them again, or {convert}"
    return f"pillow-heif would read: {extra('heif')}, or {convert}"


def read_file(path: str | os.PathLike) -> bytes:
    """Read a regular file. Raises BrokenImage for any other, and OSError of the file."""
    facts = os.stat(path)
    # Of a folder the system has a word of its own.
    if not stat.S_ISDIR(facts.st_mode):
        check_file(facts)
    return files.read(path, OVERSIZED_BYTES)


def check_file(facts: os.stat_result) -> None:
    """Raise BrokenImage for a file that should not be read: a pipe, a device, an endless one."""
    if not stat.S_ISREG(facts.st_mode):
        raise BrokenImage("unreadable", "is not a regular file")
    if facts.st_size > OVERSIZED_BYTES:
        text = f"has {facts.st_size:,} bytes, at most {OVERSIZED_BYTES:,}"
        raise BrokenImage("oversized", text)


def looks_like_image(path: Path) -> bool:
    """Tell whether a file begins as images do, also those that cannot be read here."""
    try:
        with files.reading(path) as file:
            check_file(os.fstat(file.fileno()))
            head = file.read(_HEAD_BYTES)
            if magic.readable(head) or magic.unread(head):
                return True
            with Image.open(io.BytesIO(head + file.read()), formats=known()):
                return True
    except Exception:
        # Pillow's parsers raise whatever the bytes make them stumble over.
        return False


def open_image(data: bytes) -> ImageFile:
    """Read the header of an image. Raises BrokenImage."""
    try:
        image = Image.open(io.BytesIO(data), formats=known())
    except Image.UnidentifiedImageError:
        raise _unidentified(data) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise bomb(error) from None
    except Exception as error:
        # Pillow's parsers raise whatever the bytes make them stumble over.
        raise BrokenImage("broken", f"has a broken header ({short(error)})") from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise bomb(f"{image.width}x{image.height} pixels")
    return image


def bomb(what: object) -> BrokenImage:
    """Return the error of an image that is too large to be decoded safely."""
    text = f"is larger than Pillow's limit against decompression bombs ({short(what)})"
    return BrokenImage("bomb", text)


def short(error: object) -> str:
    """Say an error in at most 160 letters, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _unidentified(data: bytes) -> BrokenImage:
    """Return what there is to say of bytes that none of the formats knows."""
    head = data[:_HEAD_BYTES]
    if name := magic.unread(head):
        return BrokenImage(name, f"is {name}, which {remedy(name)}")
    if name := magic.readable(head):
        kind = magic.tiff_kind(data) if name == "TIFF" else None
        if kind is not None:
            return BrokenImage("unread", f"is a TIFF with {kind}, of a kind that is not read")
        return BrokenImage("broken", f"is a damaged or cut {name}")
    if what := magic.other(head):
        return BrokenImage("not an image", f"is {what}, not an image")
    return BrokenImage("not an image", "is not an image that can be identified")
