"""Training from image files: vitrail's loop against timm's pieces, the same model and settings.

    python bench/training.py [--steps 10] [--rounds 5] [--side 128] [--images 3000] [variant ...]

Both sides start from the same folder of PNG files and take random resized crops, flips and
normalisation, batches of 64, AdamW, an average of weights, cross entropy. timm reads, crops and
flips files by its own loader with two workers; vitrail decodes them once into its cache, whose
making is timed too. They take turns; printed are medians of images a second, their ratio with
its interval, and the peak memory of a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn

import vitrail
from vitrail.data.augment import Augment
from vitrail.data.batches import Batches
from vitrail.data.cache import pixels
from vitrail.data.cache import statistics as channel_statistics
from vitrail.data.gate import inspect
from vitrail.data.source import open_source
from vitrail.data.split import Split, divide
from vitrail.measure.latency import ratio
from vitrail.measure.machine import machine
from vitrail.measure.memory import peak_bytes
from vitrail.train.average import Average
from vitrail.train.optimizer import AdamW, build

BATCH, SCALE, DECAY, RATE, CLASSES = 64, (0.5, 1.0), 0.9999, 1e-3, 10
# timm's name, and whether it wants to know the side of the image
VARIANTS = {
    "resnet_18": ("resnet18", False),
    "resnet_50": ("resnet50", False),
    "levit_128s": ("levit_128s", True),
    "deit_tiny": ("deit_tiny_patch16_224", True),
    "swin_tiny": ("swin_tiny_patch4_window7_224", True),
}


def folder(root: Path, side: int, number: int) -> Split:
    """A folder of PNG files of the bundled sample, enlarged and in colour, split."""
    from PIL import Image

    sample = divide(inspect(open_source("fashion-sample"), progress=False)).train
    source = pixels(sample, (28, 28), 1, progress=False)
    for n in range(min(number, len(source))):
        image = Image.fromarray(source.images[n].reshape(28, 28)).resize((side, side))
        path = root / str(int(source.labels[n])) / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        image.convert("RGB").save(path)
    return divide(inspect(open_source(str(root)), progress=False))


def endless(make) -> Iterator:
    while True:
        yield from make()


def ours(name: str, side: int, split: Split, channels) -> tuple[nn.Module, object, object]:
    """The model, a step and a feed of vitrail's loop."""
    model = vitrail.create(name, image=(side, side), classes=CLASSES)
    optimizer, average = build(AdamW(RATE), model), Average(model, DECAY)
    parameters = list(model.parameters())
    images = pixels(split.train, (side, side), 3, progress=False)
    mean, std = channels
    augment = Augment(flip=0.5, shift=0.0, scale=SCALE)
    batches = Batches(images, batch=BATCH, augment=augment, mean=mean, std=std)
    feed = endless(lambda: batches.iterate(0, stop=10_000, workers=1))

    def step() -> None:
        batch = next(feed)
        nn.functional.cross_entropy(_one(model(batch.images)), batch.targets).backward()
        nn.utils.clip_grad_norm_(parameters, float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        average.update(0)

    return model.train(), step, feed


def theirs(name: str, side: int, root: Path, channels) -> tuple[nn.Module, object, object]:
    """The same of timm's script."""
    peer, sized = VARIANTS[name]
    sizes = {"img_size": side} if sized else {}
    model = timm.create_model(peer, num_classes=CLASSES, **sizes)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=0.05)
    average = ModelEmaV3(model, decay=DECAY)
    dataset = create_dataset("", root=str(root))
    mean, std = channels
    loader = create_loader(
        dataset, (3, side, side), BATCH, is_training=True, use_prefetcher=False, scale=SCALE,
        ratio=(1.0, 1.0), hflip=0.5, color_jitter=None, interpolation="bilinear", mean=mean,
        std=std, num_workers=2, persistent_workers=True,
    )  # fmt: skip
    feed = endless(lambda: iter(loader))

    def step() -> None:
        images, targets = next(feed)
        nn.functional.cross_entropy(_one(model(images)), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step=1)

    return model.train(), step, feed


def _one(output) -> torch.Tensor:
    """Logits; the mean of the heads where there are two."""
    return sum(output) / len(output) if isinstance(output, tuple) else output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=["resnet_18", "levit_128s", "deit_tiny"])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, rows = Console(width=110), []
    table = Table(box=None, header_style="bold")
    for title in ("variant", "ours im/s", "timm im/s", "ratio", "interval", "memory x"):
        table.add_column(title, justify="left" if title == "variant" else "right")
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        split = folder(root, options.side, options.images)
        start = time.perf_counter()
        channels = channel_statistics(
            pixels(split.train, (options.side, options.side), 3, progress=False)
        )
        console.print(f"{len(split.train)} images cached in {time.perf_counter() - start:.1f} s")
        for name in options.variants:
            sides = {
                "vitrail": ours(name, options.side, split, channels),
                "timm": theirs(name, options.side, root, channels),
            }
            times: dict[str, list[float]] = {who: [] for who in sides}
            for turn in range(options.rounds + 1):
                for who, (_, step, _) in sides.items():
                    start = time.perf_counter()
                    for _ in range(options.steps):
                        step()
                    if turn:
                        times[who].append(time.perf_counter() - start)
            memory = {who: peak_bytes(step) for who, (_, step, _) in sides.items()}
            found = ratio(times["timm"], times["vitrail"])
            rates = {
                who: BATCH * options.steps / statistics.median(spent)
                for who, spent in times.items()
            }
            share = memory["vitrail"] / memory["timm"]
            row = {"variant": name, "rates": rates, "ratio": found, "memory": memory}
            rows.append(row)
            table.add_row(
                name, f"{rates['vitrail']:.0f}", f"{rates['timm']:.0f}", f"{found[0]:.2f}",
                f"{found[1]:.2f} to {found[2]:.2f}", f"{share:.2f}",
            )  # fmt: skip
            console.print(row, style="dim")
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
