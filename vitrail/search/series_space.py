"""The space of a fit for time series: small networks of every family that takes them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from vitrail.models import networks
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate


def series_candidates(
    size: tuple[int, int], channels: int, classes: int, seed: int
) -> Iterator[Candidate]:
    """Return small networks for series of `size` = (steps, 1) and `channels` features, with their
    counts, the families in turns."""
    queues = []
    for name, module in networks().items():
        if hasattr(module, "SERIES"):
            configs = list(module.SPACE.configs(image=size, channels=channels, classes=classes))
            random.Random(f"{seed} {name}").shuffle(configs)
            queues.append(configs)
    while any(queues):
        for configs in queues:
            while configs:
                config = configs.pop()
                if (figures := counted(config)) is not None:
                    yield candidate(config, params=figures.params, macs=figures.macs)
                    break
