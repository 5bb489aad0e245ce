"""Calls timed in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.bench.steps import wait
from vitrail.data.batches import Batch
from vitrail.training.objective import Step
from vitrail.training.optimizer import Optimizer, build


def measured(
    calls: Mapping[str, Callable[[], None]], rounds: int, clock: Callable[[], float] | None = None
) -> dict[str, Sequence[float]]:
    """Return the seconds of each round of each call, in turns, behind one round of warm-up.

    The clock is the wall's unless another one is given.
    """
    clock = clock or time.perf_counter
    spent: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(rounds + 1):
        for who, call in calls.items():
            start = clock()
            call()
            spent[who].append(clock() - start)
    return {who: times[1:] for who, times in spent.items()}


def clock_of(threads: int) -> Callable[[], float]:
    """Return the clock for so many threads: of one it is the processor's time, which does not
    count while other programs have the core; of more it is the wall's."""
    return time.process_time if threads == 1 else time.perf_counter


def training(
    model: nn.Module, objective: Any, optimizer: Optimizer, images: Tensor, bf16: bool = False
) -> Callable[[], None]:
    """Return a call that does a step of vitrail's loop on images that lie ready."""
    labels = torch.arange(len(images), device=images.device) % 7
    batch = Batch(images, labels, torch.arange(len(images)))
    moving, parameters = build(optimizer, model), list(model.parameters())

    def call() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            loss = objective(model, batch, Step(0, 1, 0.0))["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, float("inf"))
        moving.step()
        moving.zero_grad()
        wait(images.device)

    return call
