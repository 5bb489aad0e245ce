"""The worst mistakes of a model of time series, each as the curves of its numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vitrail.report.chapter import Card, Chapter, Gallery, Paragraph
from vitrail.units import percent

# Features of a series that are drawn: more cannot be told from each other.
SHOWN = 6
WIDTH, HEIGHT, MARGIN, TIMES = 240, 140, 6, 2
# Told apart by most who see colours otherwise (Okabe and Ito, 2008), dark enough for white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00")


@dataclass(frozen=True, eq=False)
class Curve:
    """A series that was answered wrongly: numbers (T, F), NaN where there is none."""

    key: str
    numbers: np.ndarray
    truth: str
    guess: str
    share: float


def curves(some: Sequence[Curve]) -> list[Chapter]:
    """Return the chapter, or none where nothing was wrong."""
    if not some:
        return []
    text = (
        "Test series that the model got wrong while it was surest. Each feature has a colour and a "
        f"scale of its own, from its least number to its largest; the first {SHOWN} are drawn."
    )
    cards = [
        Card(
            [(drawn(one.numbers), f"curves of {one.truth}")],
            [f"{one.guess}, {percent(one.share, 0)} sure", f"truly {one.truth}"],
            one.key,
        )
        for one in some
    ]
    return [Chapter("The worst mistakes", [Paragraph(text), Gallery(cards)])]


def drawn(numbers: np.ndarray) -> bytes:
    """Return the curves of (T, F) as a PNG; where a number is missing its curve has a gap."""
    size = TIMES * WIDTH, TIMES * HEIGHT
    picture = Image.new("RGB", size, "white")
    pen, edge = ImageDraw.Draw(picture), TIMES * MARGIN
    there = np.flatnonzero(~np.isnan(numbers).all(1))
    steps = int(there[-1]) + 1 if len(there) else 1
    across = edge + np.arange(steps) * (size[0] - 2 * edge) / max(1, steps - 1)
    for feature, colour in zip(numbers[:steps].T[:SHOWN], COLOURS, strict=False):
        known = ~np.isnan(feature)
        if not known.any():
            continue
        least, most = feature[known].min(), feature[known].max()
        height = (
            (feature - least) / (most - least) if most > least else np.where(known, 0.5, feature)
        )
        down = size[1] - edge - height * (size[1] - 2 * edge)
        for at in range(steps - 1):
            if known[at] and known[at + 1]:
                ends = [(across[at], down[at]), (across[at + 1], down[at + 1])]
                pen.line(ends, fill=colour, width=TIMES)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
