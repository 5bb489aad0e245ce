"""What a linear probe gains from features that are kept: epochs of it, one after the other.

    python bench/probing.py [--model vit_ti16] [--images 512] [--epochs 3] [--threads N]

Each epoch is one of vitrail's own loop, on images that lie decoded and are flipped: with features
that are kept, of which the first epoch computes those of both views, and on the images themselves.
Figures are seconds of an epoch; what was aimed at is that from the second epoch on one with
features takes a twentieth of one without. Images and weights are random, which changes nothing of
the time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from turns import clock_of

import vitrail
from vitrail.data.augment import Augment
from vitrail.data.batches import Batches
from vitrail.data.cache import Pixels
from vitrail.measure.latency import threads_set
from vitrail.measure.machine import cores, machine
from vitrail.methods import Freeze
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, Steps, train
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule

BATCH = 64
NORMAL = (0.5, 0.5, 0.5)


def batches(side: int, images: int) -> Batches:
    """Random images that are flipped and nothing else."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    part: Any = SimpleNamespace(labels=np.arange(images) % 10, classes=tuple(map(str, range(10))))
    return Batches(
        Pixels(part, (side, side), 3, pixels), batch=BATCH, augment=Augment(flip=0.5, shift=0.0),
        mean=NORMAL, std=NORMAL,
    )  # fmt: skip


@torch.no_grad()
def features(model: Any, data: Batches) -> np.ndarray:
    """What the head sees of both views of each image: (N, 2, width)."""
    found, model = [], model.eval()
    every = Batches(
        data.pixels, batch=BATCH, mean=NORMAL, std=NORMAL, shuffle=False, drop_last=False
    )
    for batch in every.iterate(stop=every.steps_per_epoch):
        views = [model.embedding(batch.images), model.embedding(batch.images.flip(-1))]
        found.append(torch.stack(views, 1))
    return torch.cat(found).numpy()


def epochs(
    name: str, images: int, wanted: int, kept: bool, clock: Callable[[], float]
) -> list[float]:
    """Seconds of each epoch of a probe."""
    torch.manual_seed(0)
    model: Any = Freeze().apply(vitrail.create(name, classes=10))
    data = batches(model.config.image[0], images)
    begun = clock()
    if kept:
        data.features = features(model, data)
    ends = [begun]
    per_epoch = data.steps_per_epoch

    def on_step(step: int, *_: float) -> None:
        if step % per_epoch == 0:
            ends.append(clock())

    steps = Steps(wanted * per_epoch, BATCH, ema=0.99, save_s=1e9)
    plan = Plan(AdamW(lr=1e-2), Schedule(1), steps, (Freeze(),))
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), device="cpu", workers=1, on_step=on_step)
        train(Learner(model, CrossEntropyLoss()), data, plan, place)
    return [late - early for early, late in pairwise(ends)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="vit_ti16")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    asked = parser.parse_args()
    table = Table("epoch", "images, s", "features, s", "times as fast")
    with threads_set(asked.threads):
        plain, kept = (
            epochs(asked.model, asked.images, asked.epochs, known, clock_of(asked.threads))
            for known in (False, True)
        )
    for number, (one, other) in enumerate(zip(plain, kept, strict=True), 1):
        table.add_row(str(number), f"{one:.3f}", f"{other:.3f}", f"{one / other:.1f}")
    console = Console()
    console.print(machine())
    console.print(table)


if __name__ == "__main__":
    main()
