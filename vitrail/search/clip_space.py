"""The space of a fit for clips: small backbones that look at each frame, and small MViTs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vitrail.config import hints, members
from vitrail.errors import ConfigError
from vitrail.models import families, mvit, per_frame, vatt_clips
from vitrail.models.trunk.backbone import input_kind
from vitrail.search.candidate import Candidate
from vitrail.search.prior import by_prior
from vitrail.search.space import image_sizes, in_turns, spread
from vitrail.units import counted as spoken

# Frames make a candidate so many times as dear, so that only the two smallest sizes race.
SIDES = 2
CHANNELS = 3


def clip_candidates(
    size: tuple[int, int], frames: int, classes: int, seed: int
) -> Iterator[Candidate]:
    """Return small networks for clips of `frames` frames of the median `size`, with their counts,
    families and ways to pool over time in turns."""
    hosts = members(hints(per_frame.Config)["host"])
    names = [name for name in by_prior(families()) if families()[name].Config in hosts]
    queues: list[list[Any]] = []
    for image in image_sizes(size)[:SIDES]:
        for name in names:
            space = families()[name].SPACE
            every = list(space.configs(image=image, channels=3, classes=classes))
            # Each begins with another size, as there may be no time for a second.
            some = spread(every, seed + len(queues))
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
    yield from in_turns(queues)


def begun(config: Any, frames: int) -> list[Any]:
    """Return the networks of clips of `frames` frames that weights of a model may begin: its own, a
    tower of clips, an MViT into which those of images inflate, or one that looks at each frame by
    a backbone of images, for each way to pool over time. Raises ConfigError."""
    channels = config.inputs.channels if input_kind(config) == "triples" else config.channels
    if channels != CHANNELS:
        raise ConfigError(f"of {spoken(channels, 'channel')}: clips have {CHANNELS}")
    if input_kind(config) == "images":
        if isinstance(config, mvit.Config):
            return [replace(config, frames=frames)]
        if type(config) not in members(hints(per_frame.Config)["host"]):
            raise ConfigError("which does not look at frames: give weights of another family")
        return [per_frame.Config(config, frames=frames, pool=pool) for pool in per_frame.POOLS]
    own = vatt_clips.of(config) if input_kind(config) == "triples" else config
    if own.frames != frames:
        raise ConfigError(
            f"which sees {own.frames} frames, and {frames} are shown here: add "
            f"--set task.frames={own.frames}"
        )
    return [own]
