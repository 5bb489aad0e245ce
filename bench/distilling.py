"""What a teacher costs whose answers are kept: distillation beside plain training.

    python bench/distilling.py [--student vit_ti16] [--teacher resnet_50] [--rounds 20] ...

A step is one of vitrail's own: a batch is made of images that lie decoded, flipped, shown, and the
optimizer moves. Plain training, distillation with answers that are looked up, and with answers that
are asked for take turns, step by step in one process, each with a student of its own. Figures are
images a second, and the time of a step in times of a plain one: the median over rounds with its
95 % interval. What was aimed at is 1.03 for answers that are kept. The images and both networks are
random, which changes nothing of the time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from turns import clock_of, measured

import vitrail
from vitrail.data.augment import Augment
from vitrail.data.batches import Batches
from vitrail.data.cache import Pixels
from vitrail.measure.latency import ratio, threads_set
from vitrail.measure.machine import cores, machine
from vitrail.objectives import CrossEntropy, Distillation
from vitrail.objectives.context import Context
from vitrail.training.learner import Learner
from vitrail.training.objective import Step

CLASSES = tuple(map(str, range(10)))
NORMAL = (0.5, 0.5, 0.5)


def batches(side: int, images: int, batch: int) -> Batches:
    """Random images that are flipped and nothing else."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    part: Any = SimpleNamespace(labels=np.arange(images) % 10, classes=CLASSES)
    augment = Augment(flip=0.5, shift=0.0)
    return Batches(
        Pixels(part, (side, side), 3, pixels), batch=batch, augment=augment, mean=NORMAL, std=NORMAL
    )


def learner(name: str, objective: Any, teacher: Any, known: torch.Tensor | None) -> Learner:
    """A student with its objective, and with answers that are known where some are."""
    torch.manual_seed(0)
    model = vitrail.create(name, classes=10)
    made = Learner(model, objective.build(model, Context(CLASSES, open_model=lambda _: teacher)))
    if known is not None:
        made.objective.teacher.known = known  # pyright: ignore[reportAttributeAccessIssue]
    return made.train()


def steps(made: Learner, data: Batches) -> Callable[[], None]:
    """One training step after the other."""
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-4, fused=True)
    numbers = iter(range(10**9))

    def step() -> None:
        number = next(numbers)
        batch = data.get(*divmod(number, data.steps_per_epoch))
        made(batch, Step(number, 10**9, 0.0))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--student", default="vit_ti16")
    parser.add_argument("--teacher", default="resnet_50")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=cores())
    asked = parser.parse_args()
    table = Table("training", "images/s", "times plain", "95 % interval")
    with threads_set(asked.threads):
        teacher = vitrail.create(asked.teacher, classes=10).eval()
        side = vitrail.catalog()[asked.student].config.image[0]
        data = batches(side, asked.images, asked.batch)
        known, taught = torch.randn(asked.images, 2, 10), Distillation("teacher")
        arms = {
            "plain": (CrossEntropy(), None),
            "answers kept": (taught, known),
            "teacher asked": (taught, None),
        }
        calls = {
            name: steps(learner(asked.student, objective, teacher, answers), data)
            for name, (objective, answers) in arms.items()
        }
        spent = measured(calls, asked.rounds, clock_of(asked.threads))
        for name, times in spent.items():
            middle, low, high = ratio(times, spent["plain"])
            rate = f"{asked.batch * len(times) / sum(times):.1f}"
            table.add_row(name, rate, f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    console = Console()
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
