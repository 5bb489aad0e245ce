"""What training asks of the data: micro-batches by their number, the same whenever asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class Batch(Protocol):
    """Images (B, C, H, W), targets (B,) as classes or (B, K) as shares, indices (B,).

    `views` (B,) says which of the pictures that may become of an image each is, so that what is
    known of (index, view) need not be computed; None where there is no counting them. Of an
    `embedded` batch the images are features (B, width), for the model's head alone.
    """

    @property
    def images(self) -> Tensor: ...
    @property
    def targets(self) -> Tensor: ...
    @property
    def indices(self) -> Tensor: ...
    @property
    def views(self) -> Tensor | None: ...
    @property
    def embedded(self) -> bool: ...
    def to(self, device: torch.device) -> Batch: ...


class Batches(Protocol):
    """Batches of `batch` images over all processes, a pure function of (seed, epoch, number).

    `iterate(n, stop=m)` gives those numbered n to m - 1 counted from the start of training;
    number n is `get(n // steps_per_epoch, n % steps_per_epoch)`. Process `rank` of `world`
    gets its slice.
    """

    @property
    def seed(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def steps_per_epoch(self) -> int: ...
    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch: ...
    def iterate(
        self, step: int, *, stop: int, workers: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]: ...
