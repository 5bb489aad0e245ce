"""Training on time series: masked batches, their losses, and the published way to fit.

Wang, Yang et al., "Convolution-enhanced Evolving Attention Networks", TPAMI 2023,
arXiv 2212.08330: Adam at 1e-3 without weight decay, batches of 64, 400 epochs, features
standardised by the training part, cross entropy for classes and squared errors for targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.uea import Series
from vitrail.errors import DataError
from vitrail.training.learner import Learner
from vitrail.training.loop import Outcome, Place, Plan, train
from vitrail.training.objective import Objective, Step
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule
from vitrail.training.steps import Steps


@dataclass(frozen=True, eq=False)
class Batch:
    """Series (b, T, F) as the `images` of a training, the mask (b, T) of their steps, targets (b,)
    and indices (b,)."""

    images: Tensor
    mask: Tensor
    targets: Tensor
    indices: Tensor

    @property
    def views(self) -> None:
        """None: nothing is remembered of series."""

    @property
    def embedded(self) -> bool:
        """Return False: they are series."""
        return False

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(getattr(self, f.name).to(device) for f in fields(self)))


class Batches:
    """Shuffled batches of standardised series, a function of (seed, epoch, number); the last ones
    that do not fill a batch are left out. DataError without labels."""

    def __init__(self, series: Series, *, batch: int, seed: int = 0) -> None:
        if series.labels is None:
            raise DataError(f"{series.name} has no labels: nothing can be learned from it")
        self.batch, self.seed = min(batch, len(series)), seed
        self.steps_per_epoch = len(series) // self.batch
        self._values, self._mask = torch.from_numpy(series.values), torch.from_numpy(series.mask)
        self._labels = torch.from_numpy(series.labels)

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Batch `number` of `epoch`; of several processes, rank's share of its rows."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self._labels))
        start, size = number * self.batch, self.batch
        rows = slice(start + rank * size // world, start + (rank + 1) * size // world)
        own = torch.from_numpy(order[rows])
        return Batch(self._values[own], self._mask[own], self._labels[own], own)

    def iterate(
        self, step: int, *, stop: int, workers: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Batches number `step` to `stop` - 1 from the start of training."""
        for number in range(step, stop):
            yield self.get(*divmod(number, self.steps_per_epoch), rank=rank, world=world)


class SeriesLoss(Objective):
    """Cross entropy where the targets are classes, squared error where they are numbers."""

    def forward(self, model: Any, batch: Any, step: Step) -> dict[str, Tensor]:
        outputs = model(batch.images, batch.mask).float()
        if batch.targets.is_floating_point():
            return {"loss": F.mse_loss(outputs.squeeze(1), batch.targets)}
        return {"loss": F.cross_entropy(outputs, batch.targets)}


def fit(
    model: nn.Module,
    series: Series,
    *,
    folder: Path,
    epochs: int = 400,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
) -> Outcome:
    """Train a network of series and masks, in place, on a standardised training part.

    Raises what `train.loop.train` raises, and DataError without labels.
    """
    batches = Batches(series, batch=batch, seed=seed)
    total = epochs * batches.steps_per_epoch
    steps = Steps(total, batches.batch, ema=None)
    plan = Plan(AdamW(lr=lr, weight_decay=0.0), Schedule(hold=total), steps)
    place = Place(folder, device=device, resume=resume)
    return train(Learner(model, SeriesLoss()), batches, plan, place)


@torch.no_grad()
def predict(model: nn.Module, series: Series, *, batch: int = 256) -> Tensor:
    """Outputs (N, K) for all series in order, on the CPU; the model is left in its mode."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    pairs = zip(
        torch.from_numpy(series.values).split(batch),
        torch.from_numpy(series.mask).split(batch),
        strict=True,
    )
    found = torch.cat([model(x.to(device), mask.to(device)).cpu() for x, mask in pairs])
    model.train(training)
    return found
