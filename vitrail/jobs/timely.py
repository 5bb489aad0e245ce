"""Answers before a deadline: each image at the best setting of a dial for which there is time."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from PIL import Image

from vitrail.errors import ConfigError
from vitrail.jobs.asked import Picture, asked
from vitrail.run.dial import Dial
from vitrail.units import counted, seconds

if TYPE_CHECKING:
    from vitrail.jobs.predict import Predictor
    from vitrail.jobs.prediction import Prediction


class Timely:
    """Predictors, one for each setting of a dial's front, that answer within a deadline.

    The clock of an image starts before its file is opened. What is left of `deadline_s` when its
    pixels are there is compared with the 90th percentiles of the dial; where no setting is fast
    enough, the fastest answers, late.
    """

    def __init__(self, dial: Dial, deadline_s: float, at: Mapping[str, Predictor]) -> None:
        self.dial, self.deadline_s, self._at = dial, deadline_s, at
        self._any = next(iter(at.values()))
        self.labels = self._any.labels
        # The first picture, and the first answer of a file, take longer than all others.
        blank = io.BytesIO()
        Image.new("RGB", (32, 32)).save(blank, "PNG")
        picture = self._any.decoded(blank.getvalue())
        for one in at.values():
            one.answered("blank", picture, 1)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        top: int = 5,
        out: str | os.PathLike | None = None,
    ) -> list[Prediction]:
        """Return a prediction for every image, in order, one after the other.

        Each says which setting answered and how many seconds it took. Raises ConfigError, also
        where there is a folder for masks, which are not answered by a deadline.
        """
        if out is not None:
            raise ConfigError("a deadline is for classes of images, not for masks: leave out --out")
        return [self._one(name, picture, top) for name, picture in asked(images, top)]

    def said(self, found: Sequence[Prediction]) -> str:
        """Say which settings answered how many images, and how many answers were late."""
        used = Counter(one.setting for one in found if one.setting is not None)
        each = [f"{name} for {counted(n, 'image')}" for name, n in used.most_common()]
        late = sum((one.seconds or 0.0) > self.deadline_s for one in found)
        return f"{', '.join(each)}; {late} of {len(found)} later than {seconds(self.deadline_s)}"

    def _one(self, name: str, picture: Picture, top: int) -> Prediction:
        began = perf_counter()
        image = self._any.decoded(picture)
        point = self.dial.within(self.deadline_s - (perf_counter() - began))
        found = self._at[point.name].answered(name, image, top)
        return replace(found, seconds=perf_counter() - began)
