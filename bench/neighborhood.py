"""Local attention by tiles against the gathered form, alternating in one run, and its memory.

    python bench/neighborhood.py [--rounds 5] [--batch 4]

Prints medians in ms, forward and with backward, of a 7x7 neighbourhood (heads of 32 channels)
with a bias table, the ratio, and the peak memory of one map at 56 to 448 pixels a side. Outputs
are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitrail.layers.neighborhood import Neighborhood, NeighborhoodBias

KERNEL, WIDTH = 7, 32
SIDES = {56: 2, 28: 4, 14: 8}  # of a map, and heads there, as in NAT
MEMORY = (56, 112, 224, 448)


def near(side: int) -> tuple[Tensor, Tensor]:
    """Each pixel's neighbours along an axis (side, kernel), and key minus query + kernel - 1."""
    at = torch.arange(side)
    found = (at - KERNEL // 2).clamp(0, side - KERNEL)[:, None] + torch.arange(KERNEL)
    return found, found - at[:, None] + KERNEL - 1


def gathered(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """The same by kernel^2 copies of keys and values: (B, H, W, n, d) each."""
    h, w, d = q.shape[1], q.shape[2], q.shape[4]
    (rows, down), (columns, across) = near(h), near(w)
    keys, values = (
        x[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(3, 4) for x in (k, v)
    )
    bias = table[:, down[:, None, :, None], across[None, :, None, :]].flatten(3)
    logits = torch.einsum("bhwnd,bhwknd->bhwnk", q * d**-0.5, keys) + bias.permute(1, 2, 0, 3)
    return torch.einsum("bhwnk,bhwknd->bhwnd", logits.softmax(-1), values)


def tiled(q: Tensor, k: Tensor, v: Tensor, bias: NeighborhoodBias) -> Tensor:
    return bias.local.attend(q, k, v, bias((q.shape[1], q.shape[2])))


def inputs(batch: int, side: int, heads: int, *, gradients: bool) -> list[Tensor]:
    """Queries, keys and values."""
    torch.manual_seed(0)
    made = [torch.randn(batch, side, side, heads, WIDTH) for _ in range(3)]
    return [x.requires_grad_(gradients) for x in made]


def table(heads: int) -> NeighborhoodBias:
    """A module of random biases, which keeps their dense form without gradients."""
    made = NeighborhoodBias(heads, Neighborhood(KERNEL))
    torch.nn.init.normal_(made.table)
    return made


def forward(attend: Callable[[], Tensor], given: list[Tensor]) -> None:
    with torch.inference_mode():
        attend()


def both(attend: Callable[[], Tensor], given: list[Tensor]) -> None:
    torch.autograd.grad(attend().sum(), given)


def medians(step: Callable, forms: list[Callable], given: list[Tensor], rounds: int) -> list[float]:
    """Seconds of every form, taking turns."""
    times: list[list[float]] = [[] for _ in forms]
    for turn in range(rounds + 1):
        for attend, found in zip(forms, times, strict=True):
            start = time.perf_counter()
            step(attend, given)
            if turn:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def peak(side: int, gradients: bool, queue: multiprocessing.Queue) -> None:
    """MB that one map of a batch of 1 and 2 heads needs beside its inputs."""
    bias = table(2).requires_grad_(gradients)
    step = both if gradients else forward
    for warm in (14, side):  # the first loads what the libraries load
        given = inputs(1, warm, 2, gradients=gradients)
        watch = Watch()
        step(lambda given=given: tiled(*given, bias), given)
        found = watch.stop()
    queue.put(found)


class Watch:
    """How far the memory of this process rises, sampled every millisecond."""

    def __init__(self) -> None:
        self.start = self.most = self.now()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def now(self) -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20

    def run(self) -> None:
        while not self.done.wait(0.001):
            self.most = max(self.most, self.now())

    def stop(self) -> float:
        self.done.set()
        self.thread.join()
        return self.most - self.start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    console = Console()
    shown = Table("map", "heads", "step", "gathered ms", "tiled ms", "ratio")
    for side, heads in SIDES.items():
        bias = table(heads)
        for name, step, gradients in (("forward", forward, False), ("backward", both, True)):
            given = inputs(options.batch, side, heads, gradients=gradients)
            forms = [lambda: gathered(*given, bias.table), lambda: tiled(*given, bias)]  # noqa: B023
            gap = float((forms[0]() - forms[1]()).detach().abs().max())
            if gap > 1e-4:
                raise SystemExit(f"the forms compute different things: {gap:.2g}")
            slow, fast = medians(step, forms, given, options.rounds)
            figures = f"{slow * 1e3:.1f}", f"{fast * 1e3:.1f}", f"{slow / fast:.1f}"
            shown.add_row(f"{side}x{side}", str(heads), name, *figures)
    console.print(shown)
    context, shown = multiprocessing.get_context("spawn"), Table("map", "forward MB", "backward MB")
    for side in MEMORY:
        found = []
        for gradients in (False, True):
            queue = context.Queue()
            process = context.Process(target=peak, args=(side, gradients, queue))
            process.start()
            found.append(queue.get())
            process.join()
        shown.add_row(f"{side}x{side}", *(f"{mb:.0f}" for mb in found))
    console.print(shown)


if __name__ == "__main__":
    main()
