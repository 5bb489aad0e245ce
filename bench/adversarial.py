"""What training on attacked images costs: PGD and TRADES beside plain training.

    python bench/adversarial.py [--batch 32] [--rounds 20] [--threads N] [--bf16] [variant ...]

A step is that of vitrail's loop on images that lie ready: the objective with its attack, backward
pass, norm of the gradient, AdamW. All objectives take turns, step by step in one process, each on
a model of its own with the same weights. Figures are images a second, and the time of a step in
times of a plain one: the median over rounds with its 95 % interval. One step of the attack needs a
forward pass and a backward pass without gradients of weights beside those of the training: 5/3 of
plain training where all passes cost alike.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from turns import clock_of, measured, training

import vitrail
from vitrail.attacks import PGD
from vitrail.measure.latency import ratio, threads_set
from vitrail.measure.machine import cores, machine
from vitrail.models.trunk.backbone import input_shape
from vitrail.objectives import Adversarial, CrossEntropy, Objectives, Trades
from vitrail.objectives.context import Context
from vitrail.training.optimizer import AdamW

WAYS: Mapping[str, Objectives] = {
    "plain": CrossEntropy(),
    "PGD-1": Adversarial(),
    "PGD-3": Adversarial(PGD(steps=3)),
    "TRADES-2": Trades(PGD(steps=2)),
}


def turn(name: str, value: Objectives, images: Tensor, bf16: bool) -> Callable[[], None]:
    """Return a call that does a training step with an objective."""
    torch.manual_seed(0)
    model = vitrail.create(name).to(images.device).train()
    channels = images.shape[1]
    objective = value.build(model, Context(mean=(0.5,) * channels, std=(0.25,) * channels))
    return training(model, objective, AdamW(), images, bf16)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training on attacked images.")
    parser.add_argument("variants", nargs="*", default=["xcit_nano_12_p16", "vit_ti16"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    table = Table("variant", "objective", "images/s", "times plain", "95 % interval")
    with threads_set(asked.threads):
        for name in asked.variants:
            shape = input_shape(vitrail.catalog()[name].config)
            images = torch.randn(asked.batch, *shape, device=asked.device)
            calls = {who: turn(name, one, images, asked.bf16) for who, one in WAYS.items()}
            spent = measured(calls, asked.rounds, clock_of(asked.threads))
            for who, times in spent.items():
                middle, low, high = ratio(times, spent["plain"])
                rate = f"{asked.batch * len(times) / sum(times):.1f}"
                table.add_row(name, who, rate, f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    console = Console()
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
