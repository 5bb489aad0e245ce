"""Sounds beside clips: which file each clip has, and what the gate knows of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Tracks:
    """The sound file, or the video whose sound track is meant, of each item of a source, None where
    it has none.

    `samples` of a sound are heard at `rate` hertz, 0 for what most of them have. `lengths`, once
    the gate has listened, are the samples of each whole sound at that rate, by its row, `digests`
    its file's.
    """

    keys: tuple[str | None, ...]
    samples: int
    rate: int = 0
    lengths: Mapping[int, int] = field(default_factory=dict, repr=False)
    digests: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    def digest(self, rows: np.ndarray) -> bytes:
        """Return by which the sounds of some items are known again."""
        state = hashlib.blake2b(f"{self.rate}".encode(), digest_size=16)
        for row in rows.tolist():
            state.update(self.digests.get(row, b"none") + b"\0")
        return state.digest()


def resampled(length: int, rate: int, wanted: int) -> int:
    """Return how many samples a sound has at another rate, as `Sound.at` makes them."""
    return -(-length * wanted // rate)
