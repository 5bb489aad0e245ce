"""One class for every sound: a network of images looks at its spectrogram.

Rate, length and bands of all sounds are chosen by the gate (`data.sound_gate`), unless they are
given; the run keeps them in its labels, so that whoever predicts hears the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.data.augment import Augment
from vitrail.data.hearing import Wanted
from vitrail.data.opening import open_sounds
from vitrail.data.source import Source
from vitrail.errors import ConfigError, DataError
from vitrail.report.scores import Score
from vitrail.tasks.classification import Classification

# A spectrogram is neither mirrored nor cropped: time and pitch would be other ones. It is moved a
# little, silence moving in.
AUGMENT = Augment(flip=0.0, shift=0.08)


@dataclass(frozen=True)
class Audio(Classification):
    """Tells one of several classes of sounds.

    `rate` in hertz and `seconds` are those of all sounds, 0 for what most of them have; `bands` the
    height of a spectrogram. `metric` is that of classification.

        vitrail fit sounds/ --task audio --group-by '_(\\w+)_'
        vitrail train --set task=audio --set task.rate=16000 --set data=sounds/ ...
    """

    rate: int = 0
    seconds: float = 0.0
    bands: int = 64

    def __post_init__(self) -> None:
        if self.rate < 0 or self.seconds < 0 or self.bands < 1:
            raise ConfigError(
                f"task is rate={self.rate}, seconds={self.seconds:g}, bands={self.bands}: give "
                "hertz and seconds, or 0 to let the sounds decide, and one band or more"
            )

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the sounds behind `spec` with their classes. Raises DataError."""
        return open_sounds(spec, Wanted(self.rate, self.seconds, self.bands))

    def check(self, source: Source) -> None:
        """Raise DataError where items are not sounds."""
        if source.wanted is None:
            raise DataError(
                f"{source.origin} is of images: give a folder with one subfolder of sounds per "
                "class, or leave out --task audio"
            )

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return test accuracy with its interval."""
        test: Score = judged["test"]
        return (
            f"{test.accuracy:.1%} of {test.n} test sounds right (95 % interval {test.low:.1%} to "
            f"{test.high:.1%})"
        )
