"""Training and evaluation on fewer patches: patch_dropout and pss beside the whole model.

    python bench/patches.py [--batch 32] [--cycles 6] [--threads N] [variant ...]

A step is that of vitrail's loop on images that lie ready: forward and backward pass, norm of the
gradient, AdamW, average of weights. The whole model, patch_dropout at 0.5 and pss with its cycle
take turns, step by step in one process. A cycle is an epoch of ten steps, so that every turn of ten
has each of its ratios; figures are of whole cycles: images a second, and how many times as fast as
the whole model, the median over cycles with its 95 % interval. Evaluation is of the shares that
`test_keep` may keep, in turns as well.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import vitrail
from vitrail.bench.steps import forward, training, wait
from vitrail.measure.latency import ratio, threads_set
from vitrail.measure.machine import cores, machine
from vitrail.methods import PSS, PatchDropout
from vitrail.models.trunk.backbone import input_shape
from vitrail.training.objective import Step

CYCLE = 10
SHARES = (0.8, 0.6, 0.4, 0.2)
Spent = Mapping[str, Sequence[float]]


def whole(name: str) -> nn.Module:
    """The variant with the same weights every time."""
    torch.manual_seed(0)
    return vitrail.create(name)


def steps(name: str, batch: int, device: str) -> dict[str, Callable[[int], None]]:
    """What takes turns in training: each is given the number of its step."""
    model = whole(name)
    images = torch.randn(batch, *input_shape(model.config), device=device)
    labels = torch.arange(batch, device=device) % 7
    found = {}
    for who, method in (("whole", None), ("patch_dropout 0.5", PatchDropout()), ("pss", PSS())):
        own = deepcopy(model)
        if method is not None:
            method.check(own)
            own = method.apply(own)
        own = own.to(device)
        step = training(own, images, labels)

        def call(number: int, own=own, method=method, step=step) -> None:
            if method is not None:
                method.before_step(own, Step(number, 100 * CYCLE, number / CYCLE))
            step()

        found[who] = call
    return found


def evaluations(name: str, batch: int, device: str) -> dict[str, Callable[[int], None]]:
    """What takes turns in evaluation: the whole model, and shares of its patches."""
    model = whole(name)
    images = torch.randn(batch, *input_shape(model.config), device=device)
    found = {"whole": forward(deepcopy(model).to(device), images)}
    for share in SHARES:
        kept = PSS(test_keep=share).apply(deepcopy(model)).to(device)
        found[f"test_keep {share:g}"] = forward(kept, images)
    return {who: lambda number, call=call: call() for who, call in found.items()}


def measured(calls: Mapping[str, Callable[[int], None]], cycles: int, device: str) -> Spent:
    """Seconds of each cycle of each call, in turns step by step, behind a cycle of warm-up."""
    spent = {who: [0.0] * (cycles + 1) for who in calls}
    for number in range((cycles + 1) * CYCLE):
        for who, call in calls.items():
            wait(torch.device(device))
            start = time.perf_counter()
            call(number)
            spent[who][number // CYCLE] += time.perf_counter() - start
    return {who: times[1:] for who, times in spent.items()}


def shown(title: str, spent: Spent, batch: int) -> Table:
    """The figures of one variant."""
    table = Table("", "images/s", "times as fast", "95 % interval", title=title)
    for who, times in spent.items():
        rate = CYCLE * batch * len(times) / sum(times)
        middle, low, high = ratio(spent["whole"], times)
        table.add_row(who, f"{rate:.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=["vit_ti16", "vit_s16"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--cycles", type=int, default=6)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    console = Console()
    console.print(machine())
    with threads_set(asked.threads):
        for name in asked.variants:
            for kind, make in (("training", steps), ("evaluation", evaluations)):
                calls = make(name, asked.batch, asked.device)
                spent = measured(calls, asked.cycles, asked.device)
                title = f"{name}, {kind}, batch {asked.batch}, {asked.threads} threads"
                console.print(shown(title, spent, asked.batch))


if __name__ == "__main__":
    main()
