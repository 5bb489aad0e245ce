"""How far one model is ahead of another on the same test images, with a 95 % interval.

Paired where the answers of both are known, by Agresti and Min (Statistics in Medicine 24, 2005:
half an image is added to each cell of the table of right and wrong answers); else from the two
shares alone by Newcombe's hybrid of Wilson's intervals (Statistics in Medicine 17, 1998), which is
wider than the paired one for models that find the same images hard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.proportions import Z, wilson


@dataclass(frozen=True)
class Interval:
    """A difference of shares in [-1, 1] with its 95 % interval [low, high]."""

    middle: float
    low: float
    high: float


def paired(ours: Sequence[bool], theirs: Sequence[bool]) -> Interval:
    """Return how much larger the share of right answers in `ours` is; an entry per test image.

    Raises ValueError unless both have the same number of entries, at least one.
    """
    middle, centre, variance = _pair(ours, theirs)
    return _around(middle, centre, math.sqrt(variance))


def paired_balanced(ours: Sequence[bool], theirs: Sequence[bool], truth: Sequence[int]) -> Interval:
    """Return the same for balanced accuracy, the mean over classes; `truth` is each image's class.

    Raises ValueError unless all three have the same number of entries, at least one.
    """
    rows: dict[int, list[tuple[bool, bool]]] = {}
    for mine, other, label in zip(ours, theirs, truth, strict=True):
        rows.setdefault(int(label), []).append((bool(mine), bool(other)))
    if not rows:
        raise ValueError("no answers are given to compare: give at least one")
    found = [_pair(*zip(*pairs, strict=True)) for pairs in rows.values()]
    k = len(found)
    middle, centre = (sum(one[i] for one in found) / k for i in (0, 1))
    return _around(middle, centre, math.sqrt(sum(one[2] for one in found)) / k)


def unpaired(ours: float, theirs: float, n: int, m: int) -> Interval:
    """Return the difference of two shares of n and m images."""
    mine, other = wilson(ours * n, n), wilson(theirs * m, m)
    below = math.hypot(ours - mine.low, other.high - theirs)
    above = math.hypot(mine.high - ours, theirs - other.low)
    return Interval(ours - theirs, ours - theirs - below, ours - theirs + above)


def unpaired_balanced(
    recalls: Sequence[tuple[float, int]], theirs: float, *, constant: bool
) -> Interval:
    """Return the difference of balanced accuracies where only our recalls by class are known.

    `recalls` are (recall, images) of each class with images. A constant answer's recalls are 0 and
    1 without any noise; another model is taken to be as noisy as ours.
    """
    known = [(share, n) for share, n in recalls if n]
    k = len(known)
    # Two right and two wrong answers more: a class of three images that are all right is not sure.
    adjusted = [((share * n + 2) / (n + 4), n + 4) for share, n in known]
    variance = sum(p * (1 - p) / n for p, n in adjusted) / k**2
    gap = sum(share for share, _ in known) / k - theirs
    reach = Z * math.sqrt(variance * (1 if constant else 2))
    return Interval(gap, gap - reach, gap + reach)


def _pair(ours: Sequence[bool], theirs: Sequence[bool]) -> tuple[float, float, float]:
    """Return the difference of shares, the centre of its interval, and its variance."""
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs:
        raise ValueError("no answers are given to compare: give at least one")
    won = sum(bool(mine) and not other for mine, other in pairs)
    lost = sum(bool(other) and not mine for mine, other in pairs)
    n = len(pairs) + 2  # half an image in each of the four cells
    centre = (won - lost) / n
    return (won - lost) / len(pairs), centre, ((won + lost + 1) / n - centre**2) / n


def _around(middle: float, centre: float, error: float) -> Interval:
    low, high = centre - Z * error, centre + Z * error
    return Interval(middle, max(-1.0, min(low, middle)), min(1.0, max(high, middle)))
