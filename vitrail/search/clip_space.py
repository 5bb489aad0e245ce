"""The space of a fit for clips: small backbones that look at each frame, and small MViTs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vitrail.config import hints, members
from vitrail.models import families, per_frame
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.prior import by_prior
from vitrail.search.space import image_sizes

# Frames make a candidate so many times as dear, so that only the two smallest sizes race.
SIDES = 2


def clip_candidates(
    size: tuple[int, int], frames: int, classes: int, seed: int
) -> Iterator[Candidate]:
    """Return small networks for clips of `frames` frames of the median `size`, with their counts,
    families and ways to pool over time in turns."""
    hosts = members(hints(per_frame.Config)["host"])
    names = [name for name in by_prior(families()) if issubclass(families()[name].Config, hosts)]
    queues: list[list[Any]] = []
    for image in image_sizes(size)[:SIDES]:
        for name in names:
            space = families()[name].SPACE
            some = list(space.configs(image=image, channels=3, classes=classes))
            random.Random(f"{seed} {name}").shuffle(some)
            if name == "mvit":
                queues.append([replace(one, frames=frames) for one in some])
                continue
            pools = ("attention", "mean")
            queues.append(
                [
                    per_frame.Config(h, frames=frames, pool=pools[at % 2])
                    for at, h in enumerate(some)
                ]
            )
    while any(queues):
        for configs in queues:
            while configs:
                config = configs.pop()
                if (figures := counted(config)) is not None:
                    yield candidate(config, params=figures.params, macs=figures.macs)
                    break
