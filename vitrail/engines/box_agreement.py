"""Whether an exported detector finds what the model does, box by box.

Both compute the same, but for rounding; and where two boxes overlap by just half, where two scores
are the same in six digits, or where the last of the boxes that are kept is hardly the surer one,
rounding decides which box is left. So each box without an equal has to be explained: the model
itself, asked again with pixels that are changed by as little as rounding, must once find the box
that it had not found, or lose the one that it had. One that this does not explain, and the file is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.engines.boxes import ROUNDING, Found, ask, found_by
from vitrail.errors import ExportError
from vitrail.measure.session import session

if TYPE_CHECKING:
    from torch import nn

# What a box and its match have in common, and how far their scores may differ.
ALIKE, TOLERANCE = 0.99, 1e-3
# So many held-back images are compared at other sizes than the model's too.
RESIZED = 8
# So often is the model asked again.
DRAWS = 32


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return intersection over union (n, m) of boxes (n, 4) and (m, 4)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.prod(some[:, 2:] - some[:, :2], axis=1) for some in (one, other)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


@dataclass(frozen=True)
class Near:
    """The likeness by which two boxes are taken for the same: their overlap, and how far their
    scores and their masks may differ."""

    overlap: float
    score: float
    mask: float = np.inf


EQUAL = Near(ALIKE, TOLERANCE, TOLERANCE)
# A resize may differ by 1 of 255, so that at other sizes less is asked: that boxes are scaled.
RESIZED_ALIKE, RESIZED_MATCHED = Near(0.9, 0.02), 0.9


class Apart(NamedTuple):
    """The boxes of two answers without an equal in the other, bool (n,) and (m,), and the largest
    difference of a score between equal ones."""

    ours: np.ndarray
    theirs: np.ndarray
    largest: float

    def __len__(self) -> int:
        return int(self.ours.sum() + self.theirs.sum())


def unmatched(ours: Found, theirs: Found, near: Near = EQUAL) -> Apart:
    """Return which boxes of two answers have no equal in the other. Those that are hardly above the
    least score need none."""
    from vitrail.layers.boxes import LEAST_SCORE

    sure = [one.scores > LEAST_SCORE + near.score for one in (ours, theirs)]
    same = _same(ours, theirs, near)
    apart = np.abs(ours.scores[:, None] - theirs.scores[None])
    largest = float(apart[same].max(initial=0.0))
    return Apart(sure[0] & ~same.any(1), sure[1] & ~same.any(0), largest)


def _same(ours: Found, theirs: Found, near: Near) -> np.ndarray:
    """Tell which pairs of two answers are equal, bool (n, m)."""
    same = overlaps(ours.boxes, theirs.boxes) >= near.overlap
    same &= ours.labels[:, None] == theirs.labels[None]
    same &= np.abs(ours.scores[:, None] - theirs.scores[None]) <= near.score
    if ours.masks is not None and theirs.masks is not None:
        for one, other in np.argwhere(same):
            apart = np.abs(ours.masks[one] - theirs.masks[other]).max()
            same[one, other] = apart <= near.mask
    return same


@dataclass(frozen=True)
class Doubt:
    """By how much pixels are changed to explain a box, and which boxes are then the same."""

    size: float
    near: Near


SMALL = Doubt(ROUNDING, EQUAL)


def explained(
    found: Callable[..., Found], image: np.ndarray, theirs: Found, apart: Apart,
    doubt: Doubt = SMALL,
) -> tuple[int, str]:  # fmt: skip
    """Return how many of the boxes that are apart in an image rounding explains, and the first one
    that it does not: the model finds or loses all others once, when its pixels are changed a
    little."""
    extra, lost = apart.theirs.copy(), apart.ours.copy()
    own = found(image)
    for number in range(DRAWS):
        if not extra.any() and not lost.any():
            break
        again = found(image, number, doubt.size)
        extra &= ~_same(again, theirs, doubt.near).any(0)
        lost &= _same(own, again, doubt.near).any(1)
    left = [
        f"{kind} a box of class {one.labels[row]} with score {one.scores[row]:.3f} at "
        f"{one.boxes[row].round(1).tolist()}"
        for kind, one, rows in (("finds", theirs, extra), ("lacks", own, lost))
        for row in np.flatnonzero(rows)
    ]
    return len(apart) - len(left), (left or [""])[0]


def compare(
    model: nn.Module,
    labels: Labels,
    path: Path,
    images: np.ndarray,
    advance: Callable[[int], None] = lambda n: None,
) -> float:
    """Return the largest difference of a score between a detector and its file that find the same.

    `images` are uint8 (N, H, W, C) at the model's size; some are given all at once as well, and
    some larger. Raises ExportError where a box has no equal, of the same class, overlapping by
    0.99, with a score (and a mask) within 1e-3, and rounding does not explain that.
    """
    running, (height, width) = session(path), labels.image
    own, together = found_by(model, labels), ask(running, images[:RESIZED])
    largest = 0.0
    for at, image in enumerate(images):
        ours = own(image)
        for theirs in [*ask(running, image[None]), *together[at : at + 1]]:
            apart = unmatched(ours, theirs)
            largest = max(largest, apart.largest)
            if len(apart):
                known, left = explained(own, image, theirs, apart)
                if known < len(apart):
                    raise ExportError(
                        f"the exported file does not find what the model does: in image {at + 1} "
                        f"of {len(images)} it {left}, and rounding does not explain that"
                    )
        advance(1)
    if isinstance(running.get_inputs()[0].shape[1], str):
        larger = resize(images[:RESIZED], (2 * height + 3, width + 5))
        _require_scaled(own, running, larger, Doubt(1 / 255 / min(labels.std), RESIZED_ALIKE))
    return largest


def _require_scaled(
    found: Callable[..., Found], running: Any, images: np.ndarray, doubt: Doubt
) -> None:
    """Raise ExportError where boxes of images of other sizes are not scaled: more than a tenth
    differs in a way that one step of 255 does not explain."""
    lost = every = 0
    for image in images:
        ours, [theirs] = found(image), ask(running, image[None])
        apart = unmatched(ours, theirs, doubt.near)
        every += len(ours.scores) + len(theirs.scores)
        lost += len(apart) - explained(found, image, theirs, apart, doubt)[0]
    if lost > (1 - RESIZED_MATCHED) * every:
        raise ExportError(
            f"the exported file does not find what the model does: of {every:,} boxes on larger "
            f"images {lost:,} have no equal (overlap {RESIZED_ALIKE.overlap}, scores within "
            f"{RESIZED_ALIKE.score:g})"
        )
