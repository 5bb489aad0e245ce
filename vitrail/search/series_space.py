"""The space of a fit for time series: small networks of every family that takes them."""

from __future__ import annotations

from collections.abc import Iterator

from vitrail.models import networks
from vitrail.search.candidate import Candidate
from vitrail.search.space import in_turns, spread


def series_candidates(
    size: tuple[int, int], channels: int, classes: int, seed: int
) -> Iterator[Candidate]:
    """Return small networks for series of `size` = (steps, 1) and `channels` features, with their
    counts, the families in turns."""
    queues = []
    for module in networks().values():
        if hasattr(module, "SERIES"):
            configs = list(module.SPACE.configs(image=size, channels=channels, classes=classes))
            queues.append(spread(configs, seed))
    yield from in_turns(queues)
