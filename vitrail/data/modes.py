"""Images of any of Pillow's modes to 8 bits in mode L or RGB, a few rows at a time."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from vitrail.data.depth import Range, Values, look, scaled

# So many pixels are converted at once: large images need little more than their result.
BLOCK = 1 << 20

_NAMES = {
    "1": "bilevel", "L": "grey", "LA": "grey", "La": "grey", "RGB": "colour", "RGBA": "colour",
    "RGBa": "colour", "RGBX": "colour", "YCbCr": "colour", "HSV": "colour", "LAB": "colour",
    "P": "palette", "PA": "palette", "CMYK": "CMYK", "F": "float",
}  # fmt: skip
_GREY = ("1", "L", "LA", "La")
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
# The same data read again with its bytes changed over gives the lower half of each value.
_NATIVE = "16L" if sys.byteorder == "little" else "16B"
_SWAPPED = {"16B": "16L", "16L": "16B"}
_WIDE = ("RGB;16", "RGBX;16", "RGBA;16", "LA;16")
BITS = 258
# Compressed TIFFs arrive in the machine's byte order, whatever their own is.
_MACHINE_ORDER = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_NODATA, _SAMPLE_FORMAT, _PHOTOMETRIC, _BANDS = 42113, 339, 262, 277


def name(image: Image.Image) -> str:
    """Return what the mode is called in findings, for whole numbers beyond 8 bits their bits."""
    if image.mode.startswith("I;16"):
        return "16-bit"
    if image.mode == "I":
        return "32-bit" if tag(image, BITS, (16,))[0] == 32 else "16-bit"
    return _NAMES.get(image.mode, "other")


def tag(image: Image.Image, number: int, default):
    """Return a tag of a TIFF, or the default where the image has none."""
    return getattr(image, "tag_v2", {}).get(number, default)


def raw_mode(image: Image.Image) -> str:
    """Say how the values lie in the file, as Pillow calls it, before the image is loaded."""
    spots = getattr(image, "tile", None)
    arguments = spots[0][3] if spots else ""
    first = arguments if isinstance(arguments, str) else next(iter(arguments or ("",)))
    return first if isinstance(first, str) else ""


def mend_order(image: ImageFile, raw: str) -> None:
    """Let Pillow read compressed TIFFs of signed and floating values in the right byte order."""
    if raw in _MACHINE_ORDER and image.tile[0][0] == "libtiff":
        image.tile = [_read_as(spot, _MACHINE_ORDER[raw]) for spot in image.tile]


def _read_as(spot: Any, raw: str) -> Any:
    """Return a tile of Pillow's with another raw mode."""
    arguments = spot[3]
    return type(spot)(*spot[:3], (raw, *arguments[1:]) if isinstance(arguments, tuple) else raw)


def has_alpha(image: Image.Image) -> bool:
    """Tell whether some of the image may be transparent."""
    return image.mode in _ALPHA or "transparency" in image.info


def spare_bands(image: Image.Image) -> bool:
    """Tell whether a TIFF has more values per pixel than are taken of it."""
    wanted = len(image.getbands())
    return tag(image, _BANDS, wanted) > wanted


def key_levels(image: Image.Image, raw: str) -> None:
    """Set the transparent grey of a PNG of 2 or 4 bits, which it counts in levels, to 0-255."""
    factor = {"L;2": 85, "L;4": 17}.get(raw)
    key = image.info.get("transparency")
    if image.format == "PNG" and factor and isinstance(key, int):
        image.info["transparency"] = key * factor


def flat(image: Image.Image) -> Image.Image:
    """Turn an image of 8-bit values into mode L or RGB, transparency laid over white."""
    mode = "L" if image.mode in _GREY else "RGB"
    if tag(image, _SAMPLE_FORMAT, (1,))[0] == 2 and image.mode == "L":
        # Signed bytes, which Pillow takes for unsigned ones.
        return Image.fromarray(np.asarray(image) ^ 128)
    if image.mode == mode and "transparency" not in image.info:
        return image
    out = Image.new(mode, image.size)
    for top, strip in strips(image):
        out.paste(_over_white(strip, mode) if has_alpha(strip) else strip.convert(mode), (0, top))
    return out


def _over_white(strip: Image.Image, mode: str) -> Image.Image:
    rgba = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert(mode)


class Deep:
    """An image of more than 8 bits per value: what its values are, and its 8 bits for a range.

    `again` opens the same file anew, where there is one; `raw` is its `raw_mode` from before it
    was loaded.
    """

    def __init__(self, image: Image.Image, raw: str, again: Callable[[], ImageFile] | None) -> None:
        self._image = image
        self._wide = _wide(image, raw, again) if again is not None and is_wide(raw) else None
        self._key = image.info.get("transparency")
        self.kind = name(image) if self._wide is None else "16-bit"
        self.values: Values = look((b[..., : self._colours] for _, b in self._blocks()), self.kind,
                                   _no_data(image))  # fmt: skip

    @property
    def _colours(self) -> int | None:
        """Return how many bands are colours: all of a single one, or all
        but the last with alpha.
        """
        if self._wide is None:
            return None
        return {2: 1, 4: 3}.get(self._wide.shape[-1])

    @property
    def alpha(self) -> bool:
        """Tell whether some of the image may be transparent."""
        return self._key is not None or self._colours is not None

    def eight_bits(self, limits: Range) -> Image.Image:
        """Return the image in mode L or RGB, its values from `limits` to 0 and 255."""
        bands = () if self._wide is None or self._colours == 1 else (3,)
        out = np.empty((self._image.height, self._image.width, *bands), np.uint8)
        flipped = self._wide is None and tag(self._image, _PHOTOMETRIC, 1) == 0
        for top, block in self._blocks():
            part = scaled(block[..., : self._colours], limits)
            if flipped:
                part = 255 - part
            if self._colours is not None:
                part = _lighter(part, block[..., -1:])
            if self._key is not None:
                clear = block == np.array(self._key)
                part[clear.all(-1) if bands else clear] = 255
            out[top : top + len(block)] = part.reshape(out[top : top + len(block)].shape)
        return Image.fromarray(out)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        if self._wide is not None:
            rows = _rows(self._image)
            for top in range(0, len(self._wide), rows):
                yield top, self._wide[top : top + rows]
            return
        unsigned = self.kind == "32-bit" and tag(self._image, _SAMPLE_FORMAT, (1,))[0] == 1
        for top, strip in strips(self._image):
            block = np.asarray(strip)
            yield top, block.view(np.uint32) if unsigned else block


def is_wide(raw: str) -> bool:
    """Tell whether Pillow keeps only the upper halves of several values of 16 bits."""
    return raw.startswith(_WIDE)


def _wide(image: Image.Image, raw: str, again: Callable[[], ImageFile]) -> np.ndarray:
    """Read uint16 (h, w, bands) of an image that Pillow gives in 8 bits."""
    bands, _, order = raw.partition(";")
    # As bytes, a grey with alpha is four: the halves of the grey, then those of the alpha.
    swapped = "RGBA" if bands == "LA" else f"{bands};{_SWAPPED[order.replace('16N', _NATIVE)]}"
    other = again()
    other.tile = [_read_as(spot, swapped) for spot in other.tile]
    other.load()
    lower = np.asarray(other)
    upper = np.asarray(image)
    if bands == "LA":
        upper, lower = lower[..., 0::2], lower[..., 1::2]
    out = upper.astype(np.uint16)
    out <<= 8
    out |= lower
    return out


def _lighter(part: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay colours (uint8) over white, with 16 bits of alpha."""
    share = alpha.astype(np.float64) / 65535
    return np.rint(part * share + 255 * (1 - share)).astype(np.uint8)


def _no_data(image: Image.Image) -> float | None:
    """Return the value that a TIFF of GDAL's declares as no data."""
    try:
        return float(str(tag(image, _NODATA, "")).strip("\0 "))
    except ValueError:
        return None


def _rows(image: Image.Image) -> int:
    return max(1, BLOCK // max(1, image.width))


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the image in strips of some rows, each with the number of its first row."""
    rows = _rows(image)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
