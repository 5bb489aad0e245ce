"""What a candidate costs by the clock: latency, and training images per second."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vitrail.layers.fold import deploy
from vitrail.layers.outlines import SIDE
from vitrail.measure.latency import Latency, eager_latency, remembered
from vitrail.measure.machine import fast_bf16
from vitrail.models import create
from vitrail.models.trunk.backbone import input_shape
from vitrail.models.trunk.detector import Detector
from vitrail.recipes.defaults import optimizer_for, precision_on
from vitrail.recipes.on_maps import is_dense
from vitrail.run.budget import Budget
from vitrail.search.candidate import Candidate
from vitrail.training.activations import saving
from vitrail.training.device import Precision
from vitrail.training.optimizer import build

# So much faster bfloat16 must be on a CPU, where depthwise convolutions and small maps lose by it.
WORTH = 1.1
# Multiply-adds of the part of a batch that is timed on a CPU, where the rate of passes hardly
# depends on it.
PART = 2e9


def peak_macs_per_s() -> float:
    """Return the multiply-adds per second of a large matrix product with the threads set now."""
    a = torch.randn(1024, 1024)
    torch.mm(a, a)
    start = time.perf_counter()
    for _ in range(4):
        torch.mm(a, a)
    return 4 * 1024**3 / (time.perf_counter() - start)


def held(budget: Budget, images: Iterable[tuple[int, int]], channels: int) -> Budget:
    """Return the budget as it holds for models of `images`, their sizes (height, width).

    Where a picture's resize to any of them takes longer than the limit, no model can keep it, and
    the model alone is held to it.
    """
    rooms = (budget.room_s(image, channels) for image in images)
    return replace(budget, beyond=all(room is not None and room <= 0 for room in rooms))


def folded_latency(one: Candidate, budget: Budget) -> Latency:
    """Time the folded model in torch on the CPU; remembered on this machine.

    Its quickest run counts, since a median taken beside other programs says little.
    """

    def measure() -> Latency:
        model, (first, *rest) = deploy(create(one.config)), input_shape(one.config)
        return eager_latency(model, tuple(rest), first, threads=budget.threads, seconds=0.1)

    return remembered({"model": one.model, "threads": budget.threads, "quickest": True}, measure)


def paced(one: Candidate, *, batch: int, device: str = "cpu") -> Candidate:
    """Return the candidate with its training rate, in the precision that is faster on this device.

    On a CPU that multiplies bfloat16 numbers convolutions gain up to twice, others lose: both
    are tried.
    """
    precision = precision_on(device)
    rate = training_rate(one, batch=batch, device=device, precision=precision)
    if device == "cpu" and fast_bf16():
        other = training_rate(one, batch=batch, device=device, precision="bf16-mixed")
        if other > WORTH * rate:
            rate, precision = other, "bf16-mixed"
    return replace(one, rate=rate, precision=precision)


def training_rate(
    one: Candidate, *, batch: int, device: str = "cpu", precision: Precision = "32-true"
) -> float:
    """Training images per second, from the best of a few steps on random images.

    A step of `batch` images is one of the optimizer, whose time does not depend on the images, and
    a pass over each of them. On a CPU a part of a batch tells what the passes take.
    """
    where = torch.device(device)
    size = min(batch, max(4, int(PART / (one.macs + 1)))) if where.type == "cpu" else batch
    model = create(one.config).to(where).train()
    optimizer = build(optimizer_for(one.config, batch, precision), model)
    images = torch.randn(size, *input_shape(one.config), device=where)
    answer = (size, *one.image) if is_dense(one.config) else (size,)
    labels = torch.randint(0, one.model["classes"], answer, device=where)
    less = saving(None, model, (batch, *images.shape[1:]), where)
    low = torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16-mixed")

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        with low, less():
            logits = model(images)
        loss = _loss(model, logits, labels, one.image)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _done(where)
        passed = time.perf_counter()
        optimizer.step()
        _done(where)
        return passed - start, time.perf_counter() - passed

    step()
    times = [step(), step()]
    while sum(map(sum, times)) < 0.15 and len(times) < 10:
        times.append(step())
    passes, steps = (min(column) for column in zip(*times, strict=True))
    return batch / (passes * batch / size + steps)


def _done(where: torch.device) -> None:
    """Wait for an accelerator."""
    if where.type != "cpu":
        torch.accelerator.synchronize(where)


def _loss(
    model: nn.Module, said: Any, labels: torch.Tensor, image: tuple[int, int]
) -> torch.Tensor:
    """Return what costs about as much as the loss of a training, of random labels."""
    if isinstance(model, Detector):
        boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.4, 0.9, 0.9]], device=labels.device)
        kinds = labels[:, None, None].expand(-1, len(boxes), 1)
        every = boxes.expand(len(labels), -1, -1)
        inside = torch.ones(*every.shape[:2], SIDE**2, device=labels.device)
        targets = torch.cat([kinds, every, every, inside], -1)
        return model.losses(said, targets, image)["loss"]
    parts = said if isinstance(said, tuple) else (said,)
    return torch.stack([nn.functional.cross_entropy(p.float(), labels) for p in parts]).mean()
