"""The space of a fit: small configs of all families at the image sizes that suit the data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from vitrail.models import families
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate

PHOTO_SIDES = (64, 96, 128, 160, 224)


def image_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Training sizes (H, W) for images of the median `size`.

    Small images keep their size, and are also enlarged to 32 where models want an even grid;
    photographs become squares, none larger than they are.
    """
    height, width = size
    if max(size) <= 48:
        enlarged = [(32, 32)] if max(size) < 32 else []
        return [(height, width), *enlarged]
    short = min(size)
    sides = [side for side in PHOTO_SIDES if side <= short * 1.15]
    return [(side, side) for side in sides] or [(short, short)]


def spread(ordered: Sequence[Any], seed: int) -> list[Any]:
    """Return the same in an order whose beginning, of any length, is spread over all of it.

    There is time to count a few sizes of a family only: small ones and large ones must be among
    them. Places come with their binary digits reversed (van der Corput), from one that the seed
    draws.
    """
    if not ordered:
        return []
    bits, first = (len(ordered) - 1).bit_length(), random.Random(seed).randrange(len(ordered))
    places = [int(f"{place:0{bits}b}"[::-1], 2) if bits else 0 for place in range(1 << bits)]
    return [ordered[(first + at) % len(ordered)] for at in places if at < len(ordered)]


def in_turns(
    queues: Iterable[Iterable[Any]], fits: Callable[[Any], bool] = lambda config: True
) -> Iterator[Candidate]:
    """Yield the configs of all queues, one of each at a time, with their counts.

    Those that cannot be counted, or do not fit, are passed over.
    """
    left = [iter(queue) for queue in queues]
    while left:
        for queue in tuple(left):
            for config in queue:
                if (figures := counted(config)) is not None and fits(config):
                    yield candidate(config, params=figures.params, macs=figures.macs)
                    break
            else:
                left.remove(queue)


def small_candidates(
    image_size: tuple[int, int],
    channels: int,
    classes: int,
    seed: int,
    chosen: Sequence[str],
) -> Iterator[Candidate]:
    """Yield small configs of the `chosen` families at all sizes with their counts, in turns."""
    queues = []
    for image in image_sizes(image_size):
        for name in chosen:
            space = families()[name].SPACE
            configs = list(space.configs(image=image, channels=channels, classes=classes))
            queues.append(spread(configs, seed))
    yield from in_turns(queues)
