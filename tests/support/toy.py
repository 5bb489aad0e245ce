"""A small data set, a small network with a bit of everything, and trainings of them to kill."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.augment import Augment
from vitrail.data.batches import Batches
from vitrail.data.cache import Pixels
from vitrail.errors import RunError
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.training.evaluate import predict
from vitrail.training.journal import Journal
from vitrail.training.learner import Learner
from vitrail.training.loop import Interrupted, Place, Plan, Steps, train
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule

CLASSES = ("top left", "top right", "bottom left", "bottom right")
STEPS = Steps(24, 32, accumulate=2, ema=0.99, save_s=1e9)
AUGMENT = Augment(flip=0.0, shift=0.2, mixup=0.2, cutmix=1.0, erasing=0.25)


def pixels(n: int = 512) -> Pixels:
    """Grey images of 12 x 12 in which one quarter is brighter."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, n)
    images = random.integers(0, 120, (n, 12, 12, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 6 * (label // 2), 6 * (label % 2)
        image[row : row + 6, column : column + 6] += 60
    part = SimpleNamespace(labels=labels.astype(np.int64), classes=CLASSES)
    return Pixels(part, (12, 12), 1, images)


def batches(batch: int, *, n: int = 512, augment: Augment | None = None, **more: Any) -> Batches:
    return Batches(pixels(n), batch=batch, seed=3, augment=augment, mean=(0.3,), std=(0.2,), **more)


class Net(nn.Module):
    """Convolution, BatchNorm, attention and dropout, or without BatchNorm and dropout."""

    depth = 3

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(1, 16) if plain else nn.BatchNorm2d(16)
        self.position = nn.Parameter(0.1 * torch.randn(36, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.dropout = nn.Dropout(0.0 if plain else 0.1)
        self.head = nn.Linear(16, len(CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.norm(self.stem(image)).relu().flatten(2).mT + self.position
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.dropout(tokens).mean(1))

    def no_decay(self) -> set[str]:
        return {"position"}

    def depth_of(self, name: str) -> int:
        return {"stem": 0, "position": 0, "norm": 1, "attention": 2, "head": 3}[name.split(".")[0]]


def net(*, plain: bool = False, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(plain=plain)


def run(
    folder: Path, *, steps: Steps = STEPS, plain: bool = False, methods: Any = (), **more: Any
) -> Any:
    """Train a `Net` in `folder`, with all that is random switched on, less if `plain`."""
    augment = replace(AUGMENT, mixup=0, cutmix=0) if plain else AUGMENT
    return train(
        Learner(net(plain=plain), CrossEntropyLoss(0.1)),
        batches(steps.batch // steps.accumulate, augment=augment),
        Plan(AdamW(lr=2e-2 if plain else 3e-3), Schedule(4, 4), steps, methods),
        Place(folder, journal=Journal(folder / "metrics.jsonl"), **{"device": "cpu"} | more),
    )


def child(task: Any, *arguments: Any) -> multiprocessing.Process:
    """Start a process from one that has imported this module already, which takes seconds."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.toy", "lightning_fabric"])
    process = context.Process(target=task, args=arguments)
    process.start()
    return process


def train_slowly(folder: Path, steps: Steps, told: Any) -> None:
    """Go on with workers, saving after every step, and tell of every step."""
    torch.set_num_threads(1)

    def tell(step: int, *_: float) -> None:
        told.send(step)
        time.sleep(0.02)

    run(folder, steps=steps, resume=True, workers=2, on_step=tell)
    told.send("done")


def train_together(rank: int, world: int, port: int, folder: Path, steps: Steps, told: Any) -> None:
    """One of `world` processes, of which the first is told to stop half-way and all go on.

    Tells what was said when it stopped, its losses, and the logits of 101 samples.
    """
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    from lightning_fabric import Fabric  # takes seconds, and only this needs it

    fabric = Fabric(accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto")
    fabric.launch()
    losses: list[float] = []

    def hear(step: int, loss: float, *_: float) -> None:
        losses.append(loss)
        if step == steps.total // 2 - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = {"steps": steps, "plain": True, "device": fabric, "on_step": hear}
    try:
        run(folder, **settings)
    except Interrupted as stopped:
        said = str(stopped)
    whole = run(folder, resume=True, **settings)
    data = batches(16, n=101, shuffle=False, drop_last=False)
    logits, labels = predict(whole.best, data, device=fabric)
    told.send((said, losses, logits.numpy(), labels.numpy()))


def changed(**changes: Any) -> Steps:
    return replace(STEPS, **changes)


def train_with_full_disk(folder: Path, told: Any) -> None:
    """Go on where no file may grow over 8 KiB; tells what was said."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    try:
        run(folder, until=8, resume=True)
    except RunError as error:
        told.send(str(error))
