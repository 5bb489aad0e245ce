"""From the bytes of an image file to an upright picture of 8 bits, and what the file was like."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from vitrail.data import jpeg, modes, png
from vitrail.data.depth import Range, Values, chosen, is_dim
from vitrail.data.formats import BrokenImage, bomb, open_image, short
from vitrail.data.parallel import Room
from vitrail.measure.machine import memory_gib

# Bytes that a pixel takes while it is decoded: Pillow's four, a turned or converted copy, an array.
_BYTES_A_PIXEL = 12
# What all threads together may take at once, unless a single image takes more.
_ROOM = Room(int(max(1.0, memory_gib() / 4) * 2**30))

_ORIENTATION, _SUBFILE, _DNG, _PLANES, _PHOTOMETRIC = 274, 254, 50706, 284, 262
_SENSOR = (32803, 34892)  # the colours of a camera's sensor before they are mixed
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright image in Pillow's mode L or RGB, and what its file was like.

    `mode` is one of "grey", "colour", "palette", "bilevel", "16-bit", "32-bit", "float", "CMYK",
    "other"; `orientation` the EXIF value 1-8; `spare` says that the file has more bands than
    were taken. Of images with more than 8 bits per value, `values` are those of the file and
    `limits` those that became 0 and 255.
    """

    image: Image.Image
    format: str
    mode: str
    alpha: bool = False
    animated: bool = False
    orientation: int = 1
    spare: bool = False
    values: Values | None = None
    limits: Range | None = None

    @property
    def stretched(self) -> bool:
        """Tell whether, without a usual range, least and greatest became 0 and 255."""
        return self.limits is not None and not self.limits.usual

    @property
    def dim(self) -> bool:
        """Tell whether the image uses less than 1/8 of its range."""
        values, limits = self.values, self.limits
        return values is not None and limits is not None and is_dim(values, limits)


@contextmanager
def reading(data: bytes, ranges: Sequence[Range] = ()) -> Iterator[Picture]:
    """Decode the first frame of an image file wholly; the picture is to be used inside.

    `ranges` are those of the data set for images of more than 8 bits; without one, the range
    is the image's own. Waits while other threads decode more than the memory should hold.
    Raises `BrokenImage` with the reason, whatever is wrong with the bytes.
    """
    if not data:
        raise BrokenImage("empty", "is empty")
    with ExitStack() as held:
        try:
            picture = _read(data, ranges, held)
        except BrokenImage as error:
            plain = png.pixels_only(data) if error.kind in ("broken", "truncated") else None
            if plain is None:
                raise
            held.close()
            picture = _read(plain, ranges, held)
        yield picture


def read_picture(data: bytes, ranges: Sequence[Range] = ()) -> Picture:
    """Return the picture of `reading`, to keep. Raises `BrokenImage`."""
    with reading(data, ranges) as picture:
        return picture


def of_image(image: Image.Image, ranges: Sequence[Range] = ()) -> Picture:
    """Return the picture of an image in memory, of any mode of Pillow's. Raises `BrokenImage`."""
    with _told():
        image.load()
        return _upright(image, "", None, ranges)


def _read(data: bytes, ranges: Sequence[Range], held: ExitStack) -> Picture:
    course = None
    if data.startswith(jpeg.START) and not data.endswith(jpeg.END):
        course = jpeg.scans(data)
    whole = data if course is None else jpeg.closed(data, course)
    image = open_image(whole)
    _check_kind(image)
    raw = modes.raw_mode(image)
    # Colours of 16 bits are read in halves.
    size = image.width * image.height * _BYTES_A_PIXEL * (2 if modes.is_wide(raw) else 1)
    held.enter_context(_ROOM.taken(size))
    with _told():
        modes.key_levels(image, raw)
        modes.mend_order(image, raw)
        # Pillow turns TIFFs itself, and then forgets that it did.
        turned = modes.tag(image, _ORIENTATION, 1)
        image.load()
        if image.format in ("JPEG", "MPO"):
            _check_whole(image, data, ended=course is None or course.closed)
        picture = _upright(image, raw, lambda: open_image(whole), ranges)
        return picture if turned not in _UPRIGHT else replace(picture, orientation=turned)


@contextmanager
def _told() -> Iterator[None]:
    """Turn whatever goes wrong inside into a BrokenImage with its reason."""
    try:
        yield
    except BrokenImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise bomb(error) from None
    except Exception as error:
        text = str(error).lower()
        if "truncated" in text or "end of file" in text or isinstance(error, EOFError):
            raise BrokenImage("truncated", f"is truncated ({short(error)})") from error
        raise BrokenImage("broken", f"cannot be decoded ({short(error)})") from error


def _check_kind(image: Image.Image) -> None:
    """Refuse a TIFF whose first picture is not the one that is meant, or
    that Pillow reads wrongly.
    """
    sensor = modes.tag(image, _PHOTOMETRIC, None) in _SENSOR or modes.tag(image, _DNG, None)
    if image.format == "TIFF" and (sensor or int(modes.tag(image, _SUBFILE, 0)) & 1):
        raise BrokenImage(
            "camera raw", "begins with a preview as camera raw files do: convert it to JPEG or PNG"
        )
    if modes.tag(image, _PLANES, 1) == 2 and modes.tag(image, modes.BITS, (8,))[0] > 8:
        raise BrokenImage(
            "unread", "is a TIFF of more than 8 bits in separate planes, of a kind that is not read"
        )


def _check_whole(image: Image.Image, data: bytes, *, ended: bool) -> None:
    """Raise BrokenImage for a JPEG in which pixels are missing, painted grey by its decoder."""
    if ended and not image.info.get("progressive") and not _ends_grey(image):
        return
    course = jpeg.scans(data)
    if course is None:
        return
    if course.missing:
        raise BrokenImage("truncated", "is truncated (whole scans are missing)")
    other = open_image(jpeg.continued(data, course))
    other.load()
    for top, strip in modes.strips(image):
        again = other.crop((0, top, image.width, top + strip.height))
        if (rows := np.asarray(strip) != np.asarray(again)).any():
            first = top + int(rows.reshape(len(rows), -1).any(1).argmax())
            share = (image.height - first) / image.height
            text = f"is truncated (of the lower {share:.0%} pixels are missing)"
            raise BrokenImage("truncated", text)


def _ends_grey(image: Image.Image) -> bool:
    """Return whether the last pixel has the value of missing ones, as few whole images have."""
    last = image.crop((image.width - 1, image.height - 1, image.width, image.height))
    if image.mode == "CMYK":
        return all(120 <= value <= 136 for value in np.asarray(last).ravel())
    return 125 <= int(np.asarray(last.convert("L"))[0, 0]) <= 131


def _upright(
    image: Image.Image, raw: str, again: Callable[[], ImageFile] | None, ranges: Sequence[Range]
) -> Picture:
    form = image.format or ""
    orientation = _orientation(image)
    # Phones add a preview to a JPEG (MPO): that is not an animation.
    animated = form != "MPO" and bool(getattr(image, "is_animated", False))
    values = limits = None
    if image.mode.startswith("I") or image.mode == "F" or modes.is_wide(raw):
        deep = modes.Deep(image, raw, again)
        values = deep.values
        if not values.n and not values.markers:
            raise BrokenImage("no values", "has not one finite value")
        limits = chosen(ranges, values)
        kind, alpha, eight = deep.kind, deep.alpha, deep.eight_bits(limits)
    else:
        kind, alpha, eight = modes.name(image), modes.has_alpha(image), modes.flat(image)
    if orientation in _UPRIGHT:
        eight = eight.transpose(_UPRIGHT[orientation])
    spare = modes.spare_bands(image)
    return Picture(eight, form, kind, alpha, animated, orientation, spare, values, limits)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # A damaged EXIF block is not a reason to lose the pixels, which were decoded before.
        return 1
    return value if value in range(1, 9) and image.format != "TIFF" else 1
