"""The worst mistakes of a model of clips, each as a strip of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.report.chapter import Card, Chapter, Gallery, Paragraph
from vitrail.report.masks import as_png
from vitrail.units import counted, percent

# Frames of a strip, evenly from all that were shown, and the rows in which they stand.
SHOWN, ROWS = 8, 2
GAP = 2
# Small frames are enlarged, so that they are seen.
SIDE = 480


@dataclass(frozen=True, eq=False)
class Strip:
    """A clip that was answered wrongly: frames uint8 (T, H, W, 3), and how sure the answer was."""

    key: str
    frames: np.ndarray
    truth: str
    guess: str
    share: float


def filmstrips(strips: Sequence[Strip], views: int) -> list[Chapter]:
    """Return the chapter, or none where nothing was wrong."""
    if not strips:
        return []
    text = "Test clips that the model got wrong while it was surest, read line by line."
    if views > 1:
        text += f" An answer is the mean of {counted(views, 'view')}; shown is the middle one."
    cards = [
        Card(
            [(as_png(drawn(one.frames), least=SIDE), f"frames of {one.truth}")],
            [f"{one.guess}, {percent(one.share, 0)} sure", f"truly {one.truth}"],
            one.key,
        )
        for one in strips
    ]
    return [Chapter("The worst mistakes", [Paragraph(text), Gallery(cards)])]


def drawn(frames: np.ndarray) -> np.ndarray:
    """Return some frames of a clip (T, H, W, 3) in rows with a gap between, uint8 (h, w, 3)."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)]
    columns = -(-len(chosen) // ROWS)
    _, height, width, _ = chosen.shape
    strip = np.zeros((ROWS * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), np.uint8)
    for at, frame in enumerate(chosen):
        down, right = at // columns * (height + GAP), at % columns * (width + GAP)
        strip[down : down + height, right : right + width] = frame
    return strip
