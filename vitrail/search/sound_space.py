"""The space of a fit for sounds: VATT's towers beside small backbones of images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from vitrail.models import vatt_spectrogram
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.space import image_sizes, small_candidates


def sound_candidates(
    image_size: tuple[int, int], channels: int, classes: int, seed: int, chosen: list[str]
) -> Iterator[Candidate]:
    """Yield small configs of VATT's tower and of the `chosen` families of images, in turns."""
    backbones = small_candidates(image_size, channels, classes, seed, chosen)
    towers = _towers(image_size, channels, classes)
    for pair in zip_longest(backbones, towers):
        yield from (one for one in pair if one is not None)


def _towers(image_size: tuple[int, int], channels: int, classes: int) -> Iterator[Candidate]:
    for image in image_sizes(image_size):
        for config in vatt_spectrogram.SPACE.configs(
            image=image, channels=channels, classes=classes
        ):
            figures = counted(config)
            if figures is not None:
                yield candidate(config, params=figures.params, macs=figures.macs)
