"""What a patch size that may be chosen costs: flexible models beside those made for the size.

    python bench/flexible.py [--batch 32] [--rounds 20] [--threads N] [--patches 8,32] [variant ...]

A training step is that of vitrail's loop on images that lie ready, evaluation a forward pass. For
each patch size the model that was created with it and the one of the variant's own size, made
flexible and set to it, take turns, step by step in one process. Both see as many tokens; the
flexible one resizes its kernel and its positions, in training in every step. Figures are images a
second, and the time of a flexible step in times of a fixed one: the median over rounds with its
95 % interval.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from turns import measured

import vitrail
from vitrail.bench.steps import forward, training
from vitrail.measure.latency import ratio, threads_set
from vitrail.measure.machine import cores, machine
from vitrail.methods.flexivit import Flexivit, choose
from vitrail.models.trunk.backbone import input_shape

Spent = Mapping[str, Sequence[float]]


def pair(name: str, patch: int) -> dict[str, nn.Module]:
    """The model that is made for a patch size, and the flexible one that is set to it."""
    torch.manual_seed(0)
    flexible = Flexivit((patch,)).apply(vitrail.create(name))
    return {"fixed": vitrail.create(name, patch=patch), "flexible": choose(flexible, patch)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("variants", nargs="*", default=["vit_ti16", "vit_s16"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--patches", default="8,32")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    table = Table("variant", "patch", "what", "fixed/s", "flexible/s", "times", "95 % interval")
    with threads_set(asked.threads):
        for name in asked.variants:
            for patch in map(int, asked.patches.split(",")):
                models = {k: m.to(asked.device) for k, m in pair(name, patch).items()}
                shape = input_shape(models["fixed"].config)
                images = torch.randn(asked.batch, *shape, device=asked.device)
                labels = torch.arange(asked.batch, device=asked.device) % 7
                for what, make in (
                    ("training", lambda m: training(m, images, labels)),  # noqa: B023
                    ("evaluation", lambda m: forward(m, images)),  # noqa: B023
                ):
                    spent = measured({k: make(m) for k, m in models.items()}, asked.rounds)
                    middle, low, high = ratio(spent["flexible"], spent["fixed"])
                    rates = [f"{asked.batch * len(t) / sum(t):.1f}" for t in spent.values()]
                    interval = f"{low:.3f} to {high:.3f}"
                    table.add_row(name, str(patch), what, *rates, f"{middle:.3f}", interval)
    console = Console()
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
