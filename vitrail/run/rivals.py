"""Two files of models by the clock, in turns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitrail.data.labels import Labels
from vitrail.engines import ENGINES, engine
from vitrail.measure.latency import Latency, ratio, summary, threads_set, turns

SECONDS = 1.0


def in_turns(
    first: Path, second: Path, labels: tuple[Labels, Labels], threads: int, name: str = ENGINES[0]
) -> tuple[Latency, Latency, tuple[float, float, float]]:
    """Return the latencies of two files of the engine `name`, and how many times as fast the
    second is.

    `labels` are theirs; each answers for one random image of its own size at a time. The ratio is
    as `measure.latency.ratio` gives it.
    """
    chosen, asked = engine(name), []
    for file, told in zip((first, second), labels, strict=True):
        answer = chosen.open(file, told, threads=threads, single=True)
        random = np.random.default_rng(0)
        image = random.integers(0, 256, (1, *told.image, told.channels), np.uint8)
        asked.append(lambda answer=answer, image=image: answer(image))
    with threads_set(threads):
        before, now = turns(asked, seconds=SECONDS)
    return summary(before), summary(now), ratio(before, now)
