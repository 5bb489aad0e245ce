"""Training from image files: vitrail's loop against timm's pieces, the same model and settings.

    python bench/training.py [--steps 6] [--rounds 7] [--side 128] [--images 3000] [variant ...]

Both sides start from the same folder of PNG files and take random resized crops, flips and
normalisation, batches of 64, AdamW, an average of weights, cross entropy. timm reads, crops and
flips files by its own loader with two workers; vitrail decodes them once into its cache, whose
making is timed too. Each side is a process of its own, as its users run it, and they take turns:
one is halted, its workers with it, while the other computes. Printed are medians of images a
second, their ratio with its interval, and the peak memory of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

# As the command line does; for both sides.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn

import vitrail
from vitrail import heap
from vitrail.data.augment import Augment
from vitrail.data.batches import Batches
from vitrail.data.cache import pixels
from vitrail.data.cache import statistics as channel_statistics
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import Split, divide
from vitrail.measure.latency import ratio
from vitrail.measure.machine import machine
from vitrail.measure.memory import peak_bytes
from vitrail.training.average import Average
from vitrail.training.lean import Lean
from vitrail.training.optimizer import AdamW, build

BATCH, SCALE, DECAY, RATE, CLASSES = 64, (0.5, 1.0), 0.9999, 1e-3, 10
# timm's name, and whether it wants to know the side of the image
VARIANTS = {
    "resnet_18": ("resnet18", False),
    "resnet_50": ("resnet50", False),
    "levit_128s": ("levit_128s", True),
    "deit_tiny": ("deit_tiny_patch16_224", True),
    "swin_tiny": ("swin_tiny_patch4_window7_224", True),
}
Step = Callable[[], None]


def folder(root: Path, side: int, number: int) -> None:
    """A folder of PNG files of the bundled sample, enlarged and in colour."""
    from PIL import Image

    sample = divide(inspect(open_source("fashion-sample"), progress=False)).train
    source = pixels(sample, (28, 28), 1, progress=False)
    for n in range(min(number, len(source))):
        image = Image.fromarray(source.images[n].reshape(28, 28)).resize((side, side))
        path = root / str(int(source.labels[n])) / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        image.convert("RGB").save(path)


def read(root: Path) -> Split:
    """The folder as vitrail reads it."""
    return divide(inspect(open_source(str(root)), progress=False))


def endless(make: Callable[[], Iterator]) -> Iterator:
    while True:
        yield from make()


def ours(name: str, side: int, root: Path, channels: tuple) -> Step:
    """A step of vitrail's loop, as `vitrail train` runs it."""
    heap.keep()
    model = vitrail.create(name, image=(side, side), classes=CLASSES).train()
    optimizer, average = build(AdamW(RATE), model), Average(model, DECAY)
    parameters, less = list(model.parameters()), Lean(model)
    images = pixels(read(root).train, (side, side), 3, progress=False)
    mean, std = channels
    augment = Augment(flip=0.5, shift=0.0, scale=SCALE)
    batches = Batches(images, batch=BATCH, augment=augment, mean=mean, std=std)
    feed = endless(lambda: batches.iterate(0, stop=10_000, workers=1))

    def step() -> None:
        batch = next(feed)
        with less():
            loss = nn.functional.cross_entropy(_one(model(batch.images)), batch.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        average.update(0)

    return step


def theirs(name: str, side: int, root: Path, channels: tuple) -> Step:
    """The same of timm's script."""
    peer, sized = VARIANTS[name]
    sizes = {"img_size": side} if sized else {}
    model = timm.create_model(peer, num_classes=CLASSES, **sizes).train()
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

    return step


def _one(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Logits; the mean of the heads where there are two."""
    return sum(output) / len(output) if isinstance(output, tuple) else output


class Side:
    """One side's process; halted but for its turns, its group of workers with it."""

    def __init__(self, make: Callable[..., Step], *asked: object) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.told, other = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(other, make, asked))
        self.process.start()
        other.close()
        self.told.recv()
        self._send(signal.SIGSTOP)

    def turn(self, steps: int) -> float:
        """Seconds of so many steps."""
        self._send(signal.SIGCONT)
        self.told.send(steps)
        seconds = self.told.recv()
        self._send(signal.SIGSTOP)
        return seconds

    def finish(self) -> int:
        """The peak memory of a step."""
        self._send(signal.SIGCONT)
        self.told.send(0)
        return self.told.recv()

    def end(self) -> None:
        """The process goes, with its workers."""
        self._send(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self.told.send(0)
        self.process.join(15)
        if self.process.is_alive():
            self._send(signal.SIGKILL)

    def _send(self, what: signal.Signals) -> None:
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, what)


def _serve(told: Connection, make: Callable[..., Step], asked: tuple) -> None:
    os.setpgrp()
    torch.manual_seed(0)
    step = make(*asked)
    step()
    told.send("ready")
    while steps := told.recv():
        start = time.perf_counter()
        for _ in range(steps):
            step()
        told.send(time.perf_counter() - start)
    told.send(peak_bytes(step))
    told.recv()


def contest(name: str, options: argparse.Namespace, root: Path, channels: tuple) -> dict:
    """Both sides in turns."""
    asked = (name, options.side, root, channels)
    sides, memory = {}, {}
    times: dict[str, list[float]] = {"vitrail": [], "timm": []}
    try:
        for who, make in (("vitrail", ours), ("timm", theirs)):
            sides[who] = Side(make, *asked)
        for turn in range(options.rounds + 1):
            for who, side in sides.items():
                seconds = side.turn(options.steps)
                if turn:
                    times[who].append(seconds)
        memory = {who: side.finish() for who, side in sides.items()}
    finally:
        for side in sides.values():
            side.end()
    rates = {who: BATCH * options.steps / statistics.median(spent) for who, spent in times.items()}
    found = ratio(times["timm"], times["vitrail"])
    return {"variant": name, "rates": rates, "ratio": found, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", default=["resnet_18", "levit_128s", "deit_tiny"])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    console, rows = Console(width=110), []
    table = Table(box=None, header_style="bold")
    for title in ("variant", "ours im/s", "timm im/s", "ratio", "interval", "memory x"):
        table.add_column(title, justify="left" if title == "variant" else "right")
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        folder(root, options.side, options.images)
        split, start = read(root), time.perf_counter()
        images = pixels(split.train, (options.side, options.side), 3, progress=False)
        seconds = time.perf_counter() - start
        console.print(f"{len(split.train)} images cached in {seconds:.1f} s")
        channels = channel_statistics(images)
        for name in options.variants:
            row = contest(name, options, root, channels)
            rows.append(row)
            middle, low, high = row["ratio"]
            rates = [f"{row['rates'][who]:.0f}" for who in ("vitrail", "timm")]
            share = row["memory"]["vitrail"] / row["memory"]["timm"]
            table.add_row(name, *rates, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{share:.2f}")
            console.print(row, style="dim")
            if options.json:
                told = {"machine": machine(), "side": options.side, "rows": rows}
                options.json.write_text(json.dumps(told, indent=1) + "\n")
    console.print(table)


if __name__ == "__main__":
    main()
