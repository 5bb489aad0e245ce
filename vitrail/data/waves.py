"""The sounds beside the clips of a part, as they are heard: 16 bits a sample, from the cache.

So a view of a clip and the sound of the same moment cost no decoding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vitrail.data.builtin import cache_folder
from vitrail.data.cache import kept
from vitrail.data.decode import BrokenImage
from vitrail.data.film_sounds import read_track
from vitrail.data.parallel import in_order
from vitrail.data.split import Part
from vitrail.errors import DataError

LOUDEST = 32767


class Waves:
    """The sounds of a part at one rate, in its order; clips without one are silent.

    `take` gives float32 (n, samples) in [-1, 1], with silence behind the end of a sound.
    """

    def __init__(self, part: Part, stored: np.ndarray | None) -> None:
        assert part.source.tracks is not None
        self.part, self.tracks, self._stored = part, part.source.tracks, stored
        lengths = [self.tracks.lengths.get(row, 0) for row in part.rows.tolist()]
        self.lengths: np.ndarray = np.array(lengths, np.int64)
        self._ends: np.ndarray = np.cumsum(self.lengths)

    @property
    def there(self) -> np.ndarray:
        """Return which clips have a sound, bool (N,)."""
        return self.lengths > 0

    def take(
        self, indices: Sequence[int] | np.ndarray, shares: Sequence[float] | np.ndarray
    ) -> np.ndarray:
        """Return the sounds of clips at `indices`, each from a share of its length on, or earlier
        where it would end before all is heard."""
        out = np.zeros((len(indices), self.tracks.samples), np.float32)
        for wave, at, share in zip(out, map(int, indices), shares, strict=True):
            if not self.lengths[at]:
                continue
            last = max(0, int(self.lengths[at]) - len(wave))
            begin = min(int(share * self.lengths[at]), last)
            heard = self._whole(at)[begin : begin + len(wave)]
            wave[: len(heard)] = heard.astype(np.float32) / LOUDEST
        return out

    def _whole(self, at: int) -> np.ndarray:
        if self._stored is None:
            return _samples(self.part, at)
        end, length = int(self._ends[at]), int(self.lengths[at])
        return self._stored[end - length : end].view(np.int16)[:, 0]


def waves(part: Part, *, folder: Path | None = None, progress: bool = True) -> Waves:
    """Return the sounds of a part, from a file of the cache that is made once; see `cache.pixels`.

    Raises DataError for a sound that is gone or has changed.
    """
    found = Waves(part, None)
    total = int(found.lengths.sum())
    if not total:
        return found
    name = hashlib.blake2b(f"waves {part.digest} {total}".encode(), digest_size=16).hexdigest()
    path = (cache_folder() if folder is None else folder) / "pixels" / f"{name}.npy"

    def blocks() -> Iterator[np.ndarray]:
        def work(rows: range) -> np.ndarray:
            own = [_samples(part, at) for at in rows if found.lengths[at]]
            joined = np.concatenate([*own, np.empty(0, np.int16)])
            return joined.view(np.uint8).reshape(-1, 2)

        return in_order(
            work, len(part), size=16, workers=None, title="decoding sounds", progress=progress
        )

    return Waves(part, kept(path, (total, 2), blocks))


def _samples(part: Part, at: int) -> np.ndarray:
    """Return the whole sound of a clip, int16. Raises DataError."""
    source, row = part.source, int(part.rows[at])
    tracks = source.tracks
    assert tracks is not None and source.root is not None
    key = tracks.keys[row]
    changed = f"{key} of {source.origin} has changed since it was inspected: start again"
    try:
        known, sound = read_track(source.root / str(key))
        if known != tracks.digests[row]:
            raise DataError(changed)
        wave = sound.at(tracks.rate)
    except (OSError, BrokenImage) as error:
        raise DataError(f"{changed} ({error})") from error
    return in_16_bits(wave)


def in_16_bits(wave: np.ndarray) -> np.ndarray:
    """Return samples of -1 to 1 as int16, those beyond cut."""
    return (wave.clip(-1, 1) * LOUDEST).round().astype(np.int16)
