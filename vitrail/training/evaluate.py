"""Outputs for a whole data set, in the order of its samples, each sample once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitrail.errors import RunError
from vitrail.training.batch import Batches
from vitrail.training.device import open_fabric, reduced

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# of one sample's output: enough for a stack of maps
MOST_AXES = 5


@torch.no_grad()
def predict(
    model: nn.Module, batches: Batches, *, device: str | Fabric = "auto", workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Return outputs (N, ...) in float32 and targets (N, ...) on the CPU, ordered by sample.

    One epoch of `batches`, shared among the processes of `device`; every process gets the
    whole result. The model computes in eval mode and is left in the mode that it had. Raises
    RunError unless every sample was seen exactly once.
    """
    fabric = open_fabric(device)
    training = model.training
    fabric.to_device(model.eval())
    outputs, targets, indices = [], [], []
    feed = batches.iterate(
        0,
        stop=batches.steps_per_epoch,
        workers=workers,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )
    for batch in feed:
        if len(batch.indices):
            batch = batch.to(fabric.device)
            with fabric.autocast():
                outputs.append(model(batch.images).float())
            targets.append(batch.targets)
            indices.append(batch.indices)
    model.train(training)
    return _ordered(outputs, targets, indices, fabric)


def _ordered(
    outputs: list[Tensor], targets: list[Tensor], indices: list[Tensor], fabric: Fabric
) -> tuple[Tensor, Tensor]:
    """Join the pieces of all processes: rows are disjoint, so a sum of zeros and rows is exact."""
    seen = torch.tensor(sum(len(piece) for piece in indices), device=fabric.device)
    count = int(reduced(seen, fabric, "sum"))
    values = torch.zeros(count, *_tail(outputs, fabric), device=fabric.device)
    whole = not (targets and targets[0].is_floating_point())
    whole = bool(reduced(torch.tensor(float(whole), device=fabric.device), fabric, "mean") == 1)
    kind = torch.int64 if whole else torch.float32
    truth = torch.zeros(count, *_tail(targets, fabric), dtype=kind, device=fabric.device)
    times = torch.zeros(count, dtype=torch.int64, device=fabric.device)
    if indices:
        rows = torch.cat(indices)
        if rows.max() >= count or rows.min() < 0:
            raise RunError(_uncounted(count))
        values[rows] = torch.cat(outputs)
        truth[rows] = torch.cat(targets)
        times += torch.bincount(rows, minlength=count)
    values, truth, times = (reduced(t, fabric, "sum") for t in (values, truth, times))
    if not (times == 1).all():
        raise RunError(_uncounted(count))
    return values.cpu(), truth.cpu()


def _tail(pieces: list[Tensor], fabric: Fabric) -> list[int]:
    """Return the shape of one sample, also in a process that saw none."""
    own = list(pieces[0].shape[1:]) if pieces else []
    padded = torch.tensor([len(own), *own, *[0] * (MOST_AXES - len(own))], device=fabric.device)
    axes, *sides = reduced(padded, fabric, "max").tolist()
    return sides[:axes]


def _uncounted(count: int) -> str:
    return (
        f"an evaluation of {count} samples did not see each of them once: give batches that "
        "keep their order and drop none (shuffle=False, drop_last=False)"
    )
