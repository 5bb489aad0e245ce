"""Logits of a whole data set, in the order of its samples, each sample once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitrail.errors import RunError
from vitrail.train.batch import Batches
from vitrail.train.device import open_fabric, reduced

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@torch.no_grad()
def predict_logits(
    model: nn.Module, batches: Batches, *, device: str | Fabric = "auto", workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) in float32 and labels (N,) on the CPU, ordered by sample.

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
            targets.append(batch.targets if batch.targets.ndim == 1 else batch.targets.argmax(1))
            indices.append(batch.indices)
    model.train(training)
    return _ordered(outputs, targets, indices, fabric)


def _ordered(
    outputs: list[Tensor], targets: list[Tensor], indices: list[Tensor], fabric: Fabric
) -> tuple[Tensor, Tensor]:
    """Join the pieces of all processes: rows are disjoint, so a sum of zeros and rows is exact."""
    seen = torch.tensor(sum(len(piece) for piece in indices), device=fabric.device)
    width = torch.tensor(outputs[0].shape[1] if outputs else 0, device=fabric.device)
    count, width = int(reduced(seen, fabric, "sum")), int(reduced(width, fabric, "max"))
    logits = torch.zeros(count, width, device=fabric.device)
    labels = torch.zeros(count, dtype=torch.int64, device=fabric.device)
    times = torch.zeros(count, dtype=torch.int64, device=fabric.device)
    if indices:
        rows = torch.cat(indices)
        if rows.max() >= count or rows.min() < 0:
            raise RunError(_uncounted(count))
        logits[rows] = torch.cat(outputs)
        labels[rows] = torch.cat(targets)
        times += torch.bincount(rows, minlength=count)
    logits, labels, times = (reduced(t, fabric, "sum") for t in (logits, labels, times))
    if not (times == 1).all():
        raise RunError(_uncounted(count))
    return logits.cpu(), labels.cpu()


def _uncounted(count: int) -> str:
    return (
        f"an evaluation of {count} samples did not see each of them once: give batches that "
        "keep their order and drop none (shuffle=False, drop_last=False)"
    )
