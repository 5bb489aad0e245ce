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


def measured(calls: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Sequence[float]]:
    """Return the seconds of each round of each call, in turns, behind one round of warm-up."""
    spent: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(rounds + 1):
        for who, call in calls.items():
            start = time.perf_counter()
            call()
            spent[who].append(time.perf_counter() - start)
    return {who: times[1:] for who, times in spent.items()}


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
