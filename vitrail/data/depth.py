"""Values of more than 8 bits: one range for a whole data set, which becomes 0 to 255.

A file does not say how many of its 16 bits its camera used, nor where the range of its floats
ends, so the whole set is looked at before one scale is chosen. The scale is a straight line that
is clipped at both ends, so values that mark missing data (NaN, -9999) need not be known later.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# Values that rasters write where nothing was measured, besides those that are not finite.
_LARGE = (1e20, 1e30, 1e36, 1e37, 1e38, 9.969209968386869e36, float(np.finfo(np.float32).max))
_WHOLE = (-999, -9999, -99999, -32767, -32768, 65535, -(2**31), 2**31 - 1, 2**32 - 1)
_ENDS = tuple(sign * kind(v) for v in _LARGE for kind in (float, np.float32) for sign in (1, -1))
MARKERS = frozenset(map(float, (*_WHOLE, *_ENDS)))

# Images whose values span less than this share of the range come out nearly flat.
DIM = 1 / 8


@dataclass(frozen=True)
class Range:
    """The values that become 0 and 255 in images of a `kind`: "16-bit", "32-bit" or "float"."""

    kind: str
    low: float
    high: float

    @property
    def usual(self) -> bool:
        """Tell whether files are usually meant in it: 0 to 1, to 255, or to a power of two."""
        whole = int(self.high) == self.high and int(self.high) & (int(self.high) + 1) == 0
        return self.low == 0 and whole and self.high > 0


@dataclass(frozen=True)
class Values:
    """What the values of one image are like, or of many.

    `low` and `high` are the least and the greatest of the `n` finite values other than
    `markers`, which are (value, how often) for members of MARKERS at either end; `missing` counts
    what is not finite or what the file itself declares as no data.
    """

    kind: str
    low: float
    high: float
    n: int
    markers: tuple[tuple[float, int], ...] = ()
    missing: int = 0


def look(blocks: Iterable[np.ndarray], kind: str, nodata: float | None = None) -> Values:
    """Summarise an image's values, given in blocks of any shape."""
    low, high, n, missing = np.inf, -np.inf, 0, 0
    markers: dict[float, int] = {}
    for block in blocks:
        values = block.ravel()
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
        if nodata is not None:
            values = values[values != _as(nodata, values.dtype)]
        missing += block.size - values.size
        while values.size:
            ends = float(values.min()), float(values.max())
            marker = next((end for end in ends if end in MARKERS), None)
            if marker is None:
                low, high, n = min(low, ends[0]), max(high, ends[1]), n + values.size
                break
            kept = values[values != values.dtype.type(marker)]
            markers[marker] = markers.get(marker, 0) + values.size - kept.size
            values = kept
    return Values(kind, low, high, n, tuple(markers.items()), missing)


def together(some: Sequence[Values]) -> Values:
    """Summarise the values of all images of one kind.

    A marker counts as a value like others unless it lies further from them than they spread.
    """
    counts: dict[float, int] = {}
    for values in some:
        for marker, n in values.markers:
            counts[marker] = counts.get(marker, 0) + n
    full = [values for values in some if values.n]
    return _settled(
        Values(
            some[0].kind,
            min((v.low for v in full), default=np.inf),
            max((v.high for v in full), default=-np.inf),
            sum(v.n for v in some),
            tuple(counts.items()),
            sum(v.missing for v in some),
        )
    )


def range_of(values: Values) -> Range:
    """Choose a range for values: the one they seem to be meant in, if they use half of it.

    Whole numbers: 0 to the largest of as many bits; floats: 0 to 1 or to 255; everything else
    from the least to the greatest.
    """
    low, high, kind = values.low, values.high, values.kind
    tops = [1.0, 255.0] if kind == "float" else [2.0 ** int(max(high, 1)).bit_length() - 1]
    for top in tops:
        if low >= 0 and high <= top and high - low >= top / 2:
            return Range(kind, 0.0, top)
    if high > low:
        return Range(kind, low, high)
    # One value only: nothing is to be seen, but a full white should not become black.
    full = {"16-bit": 65535.0, "float": 1.0 if 0 <= low <= 1 else 255.0}.get(kind, 255.0)
    return Range(kind, 0.0, full) if 0 <= low <= full else Range(kind, low, low + 1)


def chosen(ranges: Sequence[Range], values: Values) -> Range:
    """Return the range of the values' kind, or their own where there is none."""
    fitting = [known for known in ranges if known.kind == values.kind]
    return fitting[0] if fitting else range_of(together([values]))


def scaled(block: np.ndarray, limits: Range) -> np.ndarray:
    """Return values of any shape as uint8, rounded, clipped to the range; NaN is 0."""
    # Not in place: the values are a view of the image.
    with np.errstate(invalid="ignore"):  # of NaN there are kinds that warn when they are copied
        out = block.astype(np.float64)
    np.nan_to_num(out, copy=False, nan=limits.low, posinf=np.inf, neginf=-np.inf)
    np.clip(out, limits.low, limits.high, out=out)
    out -= limits.low
    out *= 255 / (limits.high - limits.low)
    return np.rint(out, out=out).astype(np.uint8)


def is_dim(values: Values, limits: Range) -> bool:
    """Tell whether an image's values lie so close together that little of it can be seen."""
    return 0 < values.high - values.low < DIM * (limits.high - limits.low)


def _as(value: float, kind: np.dtype) -> float:
    """Return a number as an array of this kind would hold it."""
    return float(kind.type(value)) if kind.kind == "f" else value


def _settled(values: Values) -> Values:
    low, high, n = values.low, values.high, values.n
    left = list(values.markers)
    for marker, count in sorted(values.markers, key=lambda m: abs(m[0])):
        spread = high - low
        if n and spread > 0 and not low - spread <= marker <= high + spread:
            continue
        low, high, n = min(low, marker), max(high, marker), n + count
        left.remove((marker, count))
    return Values(values.kind, low, high, n, tuple(left), values.missing)
