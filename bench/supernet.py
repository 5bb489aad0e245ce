"""What a step of a shared network costs beside the same step of the candidate by itself.

    python bench/supernet.py [--candidates 20] [--rounds 5] [--batch 64] [--threads 1] [SPACE ...]

For random candidates of each space, forward, backward and the optimizer of trainings, taking turns:
the candidate as a model of its own, and the shared network asked for it by one rule. "new" is a
candidate's first step in the shared network, as each step of a search is: its modules and the
kernels of its shapes are made then; "again" and "alone" are the quickest of the rounds after it.
Prints means over candidates in ms of processor time, all threads together, so that other programs
hardly matter, and the ratios of their sums.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vitrail.search.spaces import SHARED, space_of
from vitrail.search.spaces.images import Images
from vitrail.search.spaces.space import drawn
from vitrail.training.optimizer import AdamW


class Stepper:
    """Takes steps with one optimizer, and says how much processor time each took, in seconds."""

    def __init__(self, owner: nn.Module) -> None:
        self.optimizer = AdamW().over([{"params": list(owner.parameters())}])

    def step(self, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
        start = time.process_time()
        F.cross_entropy(forward(x), y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.process_time() - start


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("spaces", nargs="*", default=[n for n in SHARED if n != "bats"])
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    table = Table("space", "MACs in M", "alone", "again", "new", "again / alone", "new / alone")
    x, y = torch.randn(asked.batch, 1, 28, 28), torch.randint(0, 10, (asked.batch,))
    for name in asked.spaces:
        space, rng = space_of(name, Images((28, 28), 1, 10)), random.Random(0)
        shared = space.supernet().train()
        ours, rule, macs = Stepper(shared), space.rules[0], []
        times: list[tuple[float, float, float]] = []
        for _ in range(asked.candidates + 1):
            config = space.config(drawn(space, rng))
            asks = partial(shared, config=config, rule=rule)
            new = ours.step(asks, x, y)
            alone = shared.extracted(config, rule).train()
            own = Stepper(alone)
            own.step(alone, x, y)
            turns = [(own.step(alone, x, y), ours.step(asks, x, y)) for _ in range(asked.rounds)]
            times.append((*(min(side) for side in zip(*turns, strict=True)), new))
            macs.append(space.count(config).macs / 1e6)
        # The first has warmed up what all share.
        own, again, new = (statistics.fmean(side) for side in zip(*times[1:], strict=True))
        table.add_row(
            name, f"{statistics.fmean(macs[1:]):.1f}", f"{1e3 * own:.2f}", f"{1e3 * again:.2f}",
            f"{1e3 * new:.2f}", f"{again / own:.2f}", f"{new / own:.2f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
