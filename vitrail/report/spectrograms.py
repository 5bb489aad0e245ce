"""The worst mistakes of a model of waveforms, each as the spectrogram of its sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.report.chapter import Card, Chapter, Gallery, Paragraph
from vitrail.report.masks import as_png
from vitrail.units import percent

# Spectrograms are enlarged, so that bands are seen.
SIDE = 240


@dataclass(frozen=True, eq=False)
class Heard:
    """A sound that was answered wrongly: its spectrogram uint8 (bands, steps), and how sure the
    answer was."""

    key: str
    picture: np.ndarray
    truth: str
    guess: str
    share: float


def spectrograms(sounds: Sequence[Heard]) -> list[Chapter]:
    """Return the chapter, or none where nothing was wrong."""
    if not sounds:
        return []
    text = (
        "Test sounds that the model got wrong while it was surest, drawn as spectrograms: time "
        "runs to the right, pitch upwards, and white is loud. The model itself saw their samples."
    )
    cards = [
        Card(
            [(as_png(one.picture[..., None].repeat(3, 2), least=SIDE), f"sound of {one.truth}")],
            [f"{one.guess}, {percent(one.share, 0)} sure", f"truly {one.truth}"],
            one.key,
        )
        for one in sounds
    ]
    return [Chapter("The worst mistakes", [Paragraph(text), Gallery(cards)])]
