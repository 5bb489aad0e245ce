"""What the steps of a training said, as plain numbers, and the first that is not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from vitrail.training.batch import Batches
from vitrail.training.device import reduced
from vitrail.training.machine import Row

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Told(NamedTuple):
    """A row, averaged over the processes, as plain numbers."""

    losses: list[float]
    norm: float
    terms: dict[str, float]


@dataclass(frozen=True)
class Fault:
    """A step whose loss or gradient is not finite, and the micro-batch that it came from."""

    what: str
    step: int
    epoch: int
    number: int
    samples: list[int]

    def __str__(self) -> str:
        first = ", ".join(map(str, self.samples[:8]))
        rest = f" and {len(self.samples) - 8} more" if len(self.samples) > 8 else ""
        return (
            f"{self.what} in step {self.step} (epoch {self.epoch}, batch {self.number}, "
            f"samples {first}{rest})"
        )


def first_fault(rows: Sequence[Told], done: int, parts: int, batches: Batches) -> Fault | None:
    """Find the first loss or gradient that is not finite."""
    for step, row in enumerate(rows, done):
        for part, value in enumerate([*row.losses, row.norm]):
            if not math.isfinite(value):
                what = f"the loss is {value}" if part < parts else f"the gradient is {value}"
                running = step * parts + min(part, parts - 1)
                epoch, number = divmod(running, batches.steps_per_epoch)
                samples = batches.get(epoch, number).indices.tolist()
                return Fault(what, step + 1, epoch, number, samples)
    return None


def agreed(rows: list[Row], wish: bool, fabric: Fabric) -> tuple[list[Told], bool]:
    """Average the rows over the processes, and ask whether any of them wishes to stop."""
    flat = torch.cat([row.values for row in rows])
    flat = reduced(torch.cat([flat, flat.new_tensor([float(wish)])]), fabric, "mean")
    *values, wishes = flat.tolist()
    told, at = [], 0
    for row in rows:
        own, at = values[at : at + len(row.values)], at + len(row.values)
        parts = len(own) - len(row.names) - 1
        terms = dict(zip(row.names, own[parts + 1 :], strict=True))
        told.append(Told(own[:parts], own[parts], terms))
    return told, wishes > 0
