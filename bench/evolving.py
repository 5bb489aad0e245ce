"""Does attention learn more when its maps evolve? Rows of Fashion-MNIST as a time series.

    python bench/evolving.py [--images 6000] [--epochs 10] [--seeds 3]

Every image is a series of 28 steps of 28 numbers, for three networks that differ in what becomes
of the logits of the layer before: nothing, a share of them (residual), a share of them and a
convolution of the mix. Prints correct test images in per cent, mean and deviation over seeds, and
the seconds of one training. The training images are drawn once for all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import vitrail
from vitrail.data import builtin
from vitrail.data.series_pixels import SeriesPixels, series_pixels
from vitrail.data.source import Item, Source
from vitrail.data.split import Part
from vitrail.data.uea import Series
from vitrail.layers.normal import Normal
from vitrail.models.evolving_series import Config
from vitrail.objectives import CrossEntropy
from vitrail.objectives.context import Context
from vitrail.tasks.series import Series as SeriesTask
from vitrail.tasks.task import Order
from vitrail.training.evaluate import predict
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, train
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule
from vitrail.training.steps import Steps

ALPHA, BETA = 0.5, 0.5
# As published: Adam at 1e-3 without weight decay, batches of 64.
BATCH = 64
KINDS = {
    "attention": (0.0, 0.0),
    "residual": (ALPHA, 0.0),
    "residual + convolution": (ALPHA, BETA),
}


def rows(images: np.ndarray, labels: np.ndarray) -> SeriesPixels:
    """Images (N, 28, 28) as series, a row a step."""
    mask = np.ones(images.shape[:2], bool)
    known = labels.astype(np.int64)
    series = Series("fashion-mnist", images.astype(np.float32), mask, known, builtin.CLASSES)
    items = tuple(Item(str(at), label) for at, label in enumerate(known.tolist()))
    source = Source(series.name, series.classes, items, series.name, series=series)
    nothing = np.zeros((len(items), 2), np.uint64)
    return series_pixels(Part(source, np.arange(len(items)), nothing), series.mask.shape[1])


def parts(count: int) -> tuple[SeriesPixels, SeriesPixels]:
    """Training and test part: of the whole set if it is here, else of the sample."""
    if builtin.DEBIAN.is_dir():
        pairs = [builtin.fashion_pair(builtin.DEBIAN, part) for part in ("train", "test")]
    else:
        sheets = (("fashion_train.png", 600), ("fashion_test.png", 100))
        pairs = [builtin.unpack_sheet(builtin.SAMPLES / name, n) for name, n in sheets]
    (images, labels), test = pairs
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    return rows(images[chosen], labels[chosen]), rows(*test)


def accuracy(kind: str, seed: int, known: SeriesPixels, test: SeriesPixels, epochs: int) -> float:
    """Share of correct test images after a training of the paper's kind."""
    alpha, beta = KINDS[kind]
    config = Config(
        features=28,
        length=28,
        classes=10,
        depth=2,
        ffn=128,
        keys=0.5,
        values=0.5,
        alpha=alpha,
        beta=beta,
    )
    torch.manual_seed(seed)
    model = vitrail.create(config)
    task, normal = SeriesTask(), Normal(*known.statistics())
    batches = task.training(known, normal, Order(BATCH, seed))
    total = epochs * batches.steps_per_epoch
    plan = Plan(AdamW(1e-3, weight_decay=0.0), Schedule(hold=total), Steps(total, BATCH, ema=None))
    learner = Learner(model, CrossEntropy(0.0).build(model, Context()))
    with tempfile.TemporaryDirectory() as folder:
        train(learner, batches, plan, Place(Path(folder)))
    found, truth = predict(model, task.watching(test, normal))
    return float((found.argmax(1) == truth).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    known, test = parts(options.images)
    table = Table(title=f"{len(known)} images, {options.epochs} epochs, {len(test)} test images")
    for column in ("logits of the layer before", "correct, %", "deviation", "seconds"):
        table.add_column(column, justify="left" if column.startswith("logits") else "right")
    for kind in KINDS:
        start = time.perf_counter()
        found = [
            100 * accuracy(kind, seed, known, test, options.epochs) for seed in range(options.seeds)
        ]
        seconds = (time.perf_counter() - start) / options.seeds
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        table.add_row(kind, f"{statistics.mean(found):.2f}", f"{spread:.2f}", f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
