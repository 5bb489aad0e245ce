"""The space of a fit for sounds as waveforms: small towers of VATT."""

from __future__ import annotations

from collections.abc import Iterator

from vitrail.models import vatt_sounds
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate


def wave_candidates(samples: int, classes: int) -> Iterator[Candidate]:
    """Yield small towers for sounds of so many samples, with their counts."""
    for config in vatt_sounds.SPACE.configs(image=(1, samples), channels=1, classes=classes):
        if (figures := counted(config)) is not None:
            yield candidate(config, params=figures.params, macs=figures.macs)
