"""What a candidate costs by the clock: latency, and training images per second."""

from __future__ import annotations

import time

import torch

from vitrail.fit.budget import Budget
from vitrail.fit.candidate import Candidate
from vitrail.layers.fold import deploy
from vitrail.measure.latency import Latency, eager_latency, remembered
from vitrail.models import create


def peak_macs_per_s() -> float:
    """Multiply-adds per second of a large matrix product with the threads set now."""
    a = torch.randn(1024, 1024)
    torch.mm(a, a)
    start = time.perf_counter()
    for _ in range(4):
        torch.mm(a, a)
    return 4 * 1024**3 / (time.perf_counter() - start)


def folded_latency(one: Candidate, budget: Budget) -> Latency:
    """The folded model's latency in torch on the CPU, remembered on this machine."""

    def measure() -> Latency:
        model = deploy(create(one.config))
        return eager_latency(
            model, one.image, one.model["channels"], threads=budget.threads, seconds=0.1
        )

    return remembered({"model": one.model, "threads": budget.threads}, measure)


def training_rate(one: Candidate, *, batch: int, device: str = "cpu") -> float:
    """Training images per second, from the best of a few steps on random images."""
    where = torch.device(device)
    # A part of a batch is enough on a CPU, where the rate hardly depends on it: some 10^9 of
    # multiply-adds.
    size = min(batch, max(4, int(1e9 / (one.macs + 1)))) if where.type == "cpu" else batch
    model = create(one.config).to(where).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randn(size, one.model["channels"], *one.image, device=where)
    labels = torch.randint(0, one.model["classes"], (size,), device=where)

    def step() -> float:
        start = time.perf_counter()
        logits = model(images)
        parts = logits if isinstance(logits, tuple) else (logits,)
        loss = torch.stack([torch.nn.functional.cross_entropy(p, labels) for p in parts]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()  # waits for an accelerator
        return time.perf_counter() - start

    step()
    times = [step(), step()]
    while sum(times) < 0.15 and len(times) < 10:
        times.append(step())
    return size / min(times)
