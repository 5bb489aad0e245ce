"""Batches of clips, each with the sound of the same moment and some of its sentences."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.batches import generator
from vitrail.data.captions import captions_of
from vitrail.data.clip_pixels import ClipBatches, ClipPixels
from vitrail.data.waves import waves
from vitrail.errors import ConfigError


@dataclass(frozen=True, eq=False)
class TripleBatch:
    """`images` are clips float32 (b, C, T, H, W); `targets` ids of `candidates` sentences each,
    int64 (b, l, words), of which `told` bool (b, l) are there; `sounds` float32 (b, 1, samples), of
    which `heard` bool (b,) are there; `indices` int64 (b,)."""

    images: Tensor
    targets: Tensor
    indices: Tensor
    told: Tensor
    sounds: Tensor
    heard: Tensor
    views: Tensor | None = None
    embedded: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> TripleBatch:
        """Return the same batch on a device."""
        names = ("images", "targets", "indices", "told", "sounds", "heard")
        return replace(
            self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names}
        )


@dataclass(frozen=True)
class Beside:
    """What goes beside a clip: at most `candidates` of its sentences, drawn anew in each epoch,
    and its sound under `noise`, the deviation of what is added in training."""

    candidates: int
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.noise < 0:
            raise ConfigError(
                f"candidates are {self.candidates} and noise is {self.noise}: expected 1 or more, "
                "and 0 or more"
            )


class TripleBatches(ClipBatches):
    """Batches of clips with what goes beside them. Further arguments are those of `Batches`."""

    def __init__(self, clips: ClipPixels, beside: Beside, **order: Any) -> None:
        super().__init__(clips, **order)
        captions = captions_of(clips)
        texts = captions.of(clips.part.rows)
        said = [text for some in texts for text in some]
        self._beside, self._waves = beside, waves(clips.part, progress=False)
        self._ids: np.ndarray = captions.words(said)
        self._counts: np.ndarray = np.array([len(some) for some in texts])
        self._begins: np.ndarray = np.cumsum(self._counts) - self._counts
        self._most = min(beside.candidates, max(1, int(self._counts.max())))

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> TripleBatch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        clips = super().get(epoch, number, rank=rank, world=world)
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        mine = indices[rows]
        targets = np.zeros((len(rows), self._most, self._ids.shape[1]), np.int64)
        told = np.zeros((len(rows), self._most), bool)
        for at, row in enumerate(rows.tolist()):
            random = generator(self.seed, epoch, number + 1, 2, row)
            chosen = random.permutation(self._counts[mine[at]])[: self._most]
            targets[at, : len(chosen)] = self._ids[self._begins[mine[at]] + chosen]
            told[at, : len(chosen)] = True
        # The sound of the moment that is seen.
        shares = self.starts(epoch, number, rows) / self._clips.lengths[mine]
        sounds = self._waves.take(mine, shares)
        if self.augment is not None and self._beside.noise:
            random = generator(self.seed, epoch, number + 1, 3)
            noise = random.standard_normal((len(indices), sounds.shape[1]), np.float32)[rows]
            sounds += np.float32(self._beside.noise) * noise
        return TripleBatch(
            clips.images,
            torch.from_numpy(targets),
            clips.indices,
            torch.from_numpy(told),
            torch.from_numpy(sounds)[:, None],
            torch.from_numpy(self._waves.there[mine]),
        )
