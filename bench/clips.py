"""What it costs to read clips from the cache: training steps beside those on clips that lie ready.

    python bench/clips.py [--clips 64] [--side 112] [--batch 8] [--rounds 20] [--threads N]

Noise that moves is written to a cache of its own, as decoded frames lie there; a step draws a batch
from the mapped file, moves and normalises it, and trains a small ResNet on each of its frames. The
other step takes a batch that was made before. Both take turns in one process. Printed are clips a
second, and the rate from the cache as a share of that from memory: the median over rounds with its
95 % interval.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from turns import measured

import vitrail
from vitrail.bench.steps import training
from vitrail.data.augment import Augment
from vitrail.data.cache import kept
from vitrail.data.clip_pixels import ClipPixels
from vitrail.data.source import Item, Sampling, Source
from vitrail.data.split import Part
from vitrail.layers.normal import Normal
from vitrail.measure.latency import ratio, threads_set
from vitrail.measure.machine import cores, machine
from vitrail.models import per_frame, resnet
from vitrail.tasks.task import Order
from vitrail.tasks.video import Video

FRAMES, LENGTH = 8, 64


def pixels(clips: int, side: int, folder: Path) -> ClipPixels:
    """Clips of noise that moves, in a mapped file."""
    lengths = dict.fromkeys(range(clips), LENGTH)
    items = tuple(Item(str(at), at % 2) for at in range(clips))
    sampling = Sampling(FRAMES, 4, lengths=lengths)
    source = Source("noise", ("even", "odd"), items, "noise", clips=sampling)
    part = Part(source, np.arange(clips), np.zeros((clips, 2), np.uint64))
    shape = (clips * LENGTH, side, side, 3)
    random = np.random.default_rng(0)

    def blocks():
        for _ in range(clips):
            ground = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            yield np.stack([np.roll(ground, at, 1) for at in range(LENGTH)])

    mapped = kept(folder / "pixels" / "clips.npy", shape, blocks)
    return ClipPixels(part, (side, side), 3, mapped)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=cores())
    asked = parser.parse_args()
    host = resnet.Config(depths=(1, 1, 1), dims=(32, 64, 128), expansion=1, classes=2)
    config = per_frame.Config(host, frames=FRAMES, image=(asked.side, asked.side))
    with tempfile.TemporaryDirectory() as folder, threads_set(asked.threads):
        known = pixels(asked.clips, asked.side, Path(folder))
        order = Order(asked.batch, 0, Augment(scale=(0.5, 1.0)))
        batches = Video(FRAMES).training(known, Normal((0.5,) * 3, (0.25,) * 3), order)
        feed = batches.iterate(0, stop=1 << 30, workers=1)
        ready = batches.get(0, 0)
        step = training(vitrail.create(config), ready.images, ready.targets)

        def read() -> None:
            batch = next(feed)
            ready.images.copy_(batch.images)
            ready.targets.copy_(batch.targets)
            step()

        spent = measured({"memory": step, "cache": read}, asked.rounds)
        feed.close()  # pyright: ignore[reportAttributeAccessIssue]
    middle, low, high = ratio(spent["memory"], spent["cache"])
    table = Table("from", "clips/s", "share", "95 % interval")
    for who, times in spent.items():
        rate = asked.batch / float(np.median(times))
        said = (f"{middle:.2f}", f"{low:.2f} to {high:.2f}") if who == "cache" else ("", "")
        table.add_row(who, f"{rate:.1f}", *said)
    console = Console()
    console.print(table)
    console.print(machine())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
