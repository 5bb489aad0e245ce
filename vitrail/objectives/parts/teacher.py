"""A teacher that is the average of its student, and what processes tell each other of a batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitrail.training.objective import Step


class Following(nn.Module):
    """A copy of a student that follows it, without gradients; it is in every snapshot.

    Its backbone is in eval mode, so that nothing drops; buffers of the backbone are averaged with
    its weights. Heads keep the mode of the training: a BatchNorm in one takes its own batch's
    statistics.
    """

    def __init__(self, backbone: Any, head: nn.Module) -> None:
        super().__init__()
        self.backbone: Any = deepcopy(backbone)
        self.head = deepcopy(head)
        self.requires_grad_(False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> Following:
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def follow(self, backbone: nn.Module, head: nn.Module, momentum: float) -> None:
        """Move towards the student, `momentum` being the weight of the past."""
        _lerp(dict(self.backbone.named_parameters()), backbone.named_parameters(), momentum)
        buffers = dict(self.backbone.named_buffers())
        for name, value in backbone.named_buffers():
            if value.is_floating_point():
                buffers[name].lerp_(value, 1 - momentum)
            else:
                buffers[name].copy_(value)
        _lerp(dict(self.head.named_parameters()), head.named_parameters(), momentum)


def _lerp(
    ours: dict[str, nn.Parameter], theirs: Iterable[tuple[str, nn.Parameter]], momentum: float
) -> None:
    for name, value in theirs:
        ours[name].lerp_(value.detach(), 1 - momentum)


def momentum(start: float, step: Step) -> float:
    """Return the weight of the past after a step: from `start` to 1 by a cosine."""
    done = min(1.0, step.number / max(1, step.total))
    return 1 - (1 - start) * (1 + math.cos(math.pi * done)) / 2


def gathered(values: Tensor) -> tuple[Tensor, int]:
    """Return values (b, ...) of all processes as (B, ...), and where those of this one begin.

    Gradients do not flow to other processes: give what needs none.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values, 0
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts), dist.get_rank() * len(values)


def mean_of_all(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
