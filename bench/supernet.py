"""What a step of a shared network costs beside the same step of the candidate by itself.

    python bench/supernet.py [--rounds 15] [--batch 64] [--threads 1] [SPACE ...]

For random candidates of each space, forward, backward and AdamW, taking turns: the candidate as a
model of its own, and the shared network asked for it by one rule. Prints medians in ms and the
ratio of medians, with that of the quickest runs.
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


def stepper(owner: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor, y: Tensor):
    """Return a function that takes one step and says how long it took, in seconds."""
    optimizer = torch.optim.AdamW(owner.parameters(), lr=1e-4)

    def step() -> float:
        start = time.perf_counter()
        F.cross_entropy(forward(x), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    return step


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("spaces", nargs="*", default=[*SHARED])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--candidates", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    table = Table("space", "MACs in M", "alone", "shared", "ratio", "of the quickest")
    x, y = torch.randn(asked.batch, 1, 28, 28), torch.randint(0, 10, (asked.batch,))
    for name in asked.spaces:
        space, rng = space_of(name, Images((28, 28), 1, 10)), random.Random(0)
        shared = space.supernet().train()
        for _ in range(asked.candidates):
            config, rule = space.config(drawn(space, rng)), space.rules[0]
            alone = shared.extracted(config, rule).train()
            steps = (
                stepper(alone, alone, x, y),
                stepper(shared, partial(shared, config=config, rule=rule), x, y),
            )
            for step in steps:
                step()
            spent = [[step() for step in steps] for _ in range(asked.rounds)]
            own, ours = zip(*spent, strict=True)
            middle = statistics.median(own), statistics.median(ours)
            table.add_row(
                name, f"{space.count(config).macs / 1e6:.1f}", f"{1e3 * middle[0]:.2f}",
                f"{1e3 * middle[1]:.2f}", f"{middle[1] / middle[0]:.2f}",
                f"{min(ours) / min(own):.2f}",
            )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
