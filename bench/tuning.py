"""What a training step costs by the ways to adapt a backbone, beside one of full fine-tuning.

    python bench/tuning.py [--model vit_ti16] [--batch 32] [--rounds 20] [--ways vpt-deep,full] ...

A step is that of vitrail's loop on images that lie ready. All ways take turns, step by step in one
process, each on a model of its own with the same weights. Figures are images a second, and how many
times as fast a step is as one of full fine-tuning: the median over rounds with its 95 % interval.
Full fine-tuning needs a forward pass, one back through the activations and one for the gradients of
weights, three that cost about the same. Prompts and biases spare the last, so that 1.5 is the limit
where prompts cost nothing; what trains at the end alone spares both but for its own part.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from turns import clock_of, measured, training

import vitrail
from vitrail.measure.latency import ratio, threads_set
from vitrail.measure.machine import cores, machine
from vitrail.models.trunk.backbone import input_shape
from vitrail.objectives import CrossEntropy
from vitrail.objectives.context import Context
from vitrail.recipes.ways import WAYS, chosen


def turn(name: str, way: str, images: Tensor) -> Callable[[], None]:
    """Return a call that does a training step by a way."""
    torch.manual_seed(0)
    model = vitrail.create(name, classes=10)
    for method in WAYS[way].methods:
        model = method.apply(model)
    objective = CrossEntropy().build(model, Context())
    return training(model.train(), objective, WAYS[way].optimizer, images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="vit_ti16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--ways", default=",".join(WAYS))
    asked = parser.parse_args()
    table = Table("way", "images/s", "times full", "95 % interval")
    images = torch.randn(asked.batch, *input_shape(vitrail.catalog()[asked.model].config))
    with threads_set(asked.threads):
        ways = chosen([*asked.ways.split(","), "full"])
        calls = {way: turn(asked.model, way, images) for way in ways}
        spent = measured(calls, asked.rounds, clock_of(asked.threads))
    for way, times in spent.items():
        middle, low, high = ratio(spent["full"], times)
        rate = f"{asked.batch * len(times) / sum(times):.1f}"
        table.add_row(way, rate, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    console = Console()
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
