"""What the same wall time gives: vitrail's fit, and what one would write by hand.

    python bench/accuracy.py DATA [--time 4m] [--macs 60M] [--side 32] [--seeds 3] [--only fit,...]

All learn from the same training images of a folder, a table or a built-in name, on this machine,
each within `--time`, and are judged on the same test part, which `vitrail fit` seals:

fit       `vitrail fit`, reading, race, export and report included
resnet    timm's ResNet of widths 32, 64, 128 with a 3x3 stem in a plain AdamW loop: cosine, flips,
          shifts, label smoothing
vit       timm's ViT-Tiny of patch 4, the same loop
airbench  a network and recipe after the speed records on CIFAR-10 by hand: whitened patches taken
          from the images, 3x3 convolutions that begin as identity, Nesterov momentum, a triangle of
          rates, flips in turns, shifts over a mirrored border, answers by both sides
boosting  scikit-learn's HistGradientBoosting on the pixels

By hand nothing is chosen and nothing held back: validation images are learned from as well, and
reading is not counted. Networks of which the size has to be known are as large as their authors
have them for such images, so that some see few images in the time: that is what one meets by hand.
Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitrail.data.gate import inspect
from vitrail.data.inputs import inputs
from vitrail.data.opening import open_source
from vitrail.data.split import divide, unseal
from vitrail.jobs.fit import fit
from vitrail.measure.machine import fast_bf16, machine
from vitrail.units import parse_duration

WAYS = ("fit", "resnet", "vit", "airbench", "boosting")
# The last tenth of the time is for the test; what is left of it is not used.
USED = 0.95


@dataclass(frozen=True)
class Data:
    """Images uint8 (N, C, H, W) to learn from and to be judged by, with their classes."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def classes(self) -> int:
        """Return how many classes there are."""
        return int(self.train[1].max()) + 1

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of each channel, (1, C, 1, 1)."""
        some = self.train[0][:5000].float()
        return some.mean((0, 2, 3), keepdim=True), some.std((0, 2, 3), keepdim=True)


def opened(spec: str, side: int, seed: int) -> Data:
    """Read a data set at a size, split as `fit` splits it with the seed."""
    split = divide(inspect(open_source(spec), progress=False), seed=seed)
    found = []
    for part in (split.train, split.val, unseal(split.test)):
        pixels = inputs(part, (side, side), split.channels, progress=False)
        images = np.ascontiguousarray(pixels.take(np.arange(len(pixels))).transpose(0, 3, 1, 2))
        found.append((torch.from_numpy(images), torch.from_numpy(np.asarray(part.labels))))
    (x, y), (more, own), test = found
    return Data((torch.cat([x, more]), torch.cat([y, own])), test)


# ---- networks ----------------------------------------------------------------------------


def small_resnet(data: Data) -> nn.Module:
    """Stem of 64 channels of stride 2, then a basic block at each of three resolutions."""
    channels = data.train[0].shape[1]
    model = timm.models.ResNet(
        timm.models.resnet.BasicBlock,
        layers=(1, 1, 1),
        channels=(32, 64, 128),
        num_classes=data.classes,
        in_chans=channels,
    )
    model.conv1 = nn.Conv2d(channels, 64, 3, 2, 1, bias=False)
    model.maxpool = model.layer4 = nn.Identity()
    return model


def vit_tiny(data: Data) -> nn.Module:
    """timm's ViT-Tiny with patches of 4 pixels."""
    _, channels, side, _ = data.train[0].shape
    return timm.models.VisionTransformer(
        img_size=side, patch_size=4, in_chans=channels, num_classes=data.classes, embed_dim=192,
        depth=12, num_heads=3,
    )  # fmt: skip


def airbench(data: Data, dims: tuple[int, ...] = (32, 128, 256)) -> nn.Module:
    """The network of the speed records, narrower for a CPU: whitened patches of the training
    images, and stages of a pooled and a plain 3x3 convolution."""
    mean, std = data.moments
    x = (data.train[0][:2000].float() - mean) / std
    patches = F.unfold(x, 2).transpose(1, 2).reshape(-1, 4 * x.shape[1])
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + 5e-4).sqrt()).T.view(-1, x.shape[1], 2, 2)
    first = nn.Conv2d(x.shape[1], 2 * len(filters), 2)
    first.weight.data = torch.cat([filters, -filters])
    first.weight.requires_grad_(False)
    parts: list[nn.Module] = [first, nn.GELU()]
    width = 2 * len(filters)
    for dim in dims:
        for pool in (nn.MaxPool2d(2), nn.Identity()):
            conv = nn.Conv2d(width, dim, 3, padding=1, bias=False)
            nn.init.dirac_(conv.weight[:width])
            parts += [conv, pool, nn.BatchNorm2d(dim), nn.GELU()]
            width = dim
    head = nn.Linear(width, data.classes, bias=False)
    return nn.Sequential(*parts, nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scaled(head, 1 / 9))


class Scaled(nn.Module):
    """A module whose result is scaled."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.inner(x)


# ---- loops -------------------------------------------------------------------------------


def by_hand(
    model: nn.Module,
    data: Data,
    seconds: float,
    *,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[float], float],
    batch: int,
    smoothing: float,
    turns: bool = False,
) -> float:
    """Train for the seconds, the rate following the clock; returns test accuracy.

    With `turns` flips alternate from epoch to epoch and answers are by both sides.
    """
    start = time.perf_counter()
    images, labels = data.train
    mean, std = data.moments
    shift = max(1, round(images.shape[-1] / 16))
    model.train().to(memory_format=torch.channels_last)  # pyright: ignore
    low = torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16())
    first = torch.rand(len(images)) < 0.5
    epoch, order = 0, torch.randperm(len(images))
    at = 0
    while (share := (time.perf_counter() - start) / (USED * seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate(share)
        if at + batch > len(order):
            epoch, at, order = epoch + 1, 0, torch.randperm(len(images))
        chosen = order[at : at + batch]
        at += batch
        mirrored = first[chosen] ^ bool(epoch % 2) if turns else torch.rand(len(chosen)) < 0.5
        x = (images[chosen].float() - mean) / std
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
        dy, dx = torch.randint(0, 2 * shift + 1, (2,)).tolist()
        padded = F.pad(x, (shift,) * 4, mode="reflect")
        x = padded[:, :, dy : dy + images.shape[2], dx : dx + images.shape[3]]
        with low:
            logits = model(x.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return judged(model, data, both=turns)


@torch.inference_mode()
def judged(model: nn.Module, data: Data, *, both: bool) -> float:
    """Return the accuracy on the test images."""
    model.eval()
    mean, std = data.moments
    images, labels = data.test
    right = 0
    for start in range(0, len(images), 500):
        x = (images[start : start + 500].float() - mean) / std
        logits = model(x) + model(x.flip(3)) if both else model(x)
        right += int((logits.argmax(1) == labels[start : start + 500]).sum())
    return right / len(images)


def plain(make: Callable[[Data], nn.Module]) -> Callable[[Data, float], float]:
    """Return a training by AdamW with warm-up and cosine."""

    def run(data: Data, seconds: float) -> float:
        model = make(data)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)

        def rate(share: float) -> float:
            return 1e-3 * min(1, share / 0.02) * 0.5 * (1 + math.cos(math.pi * share))

        return by_hand(
            model, data, seconds, optimizer=optimizer, rate=rate, batch=128, smoothing=0.1
        )

    return run


def records(data: Data, seconds: float) -> float:
    """Train the airbench-like network by Nesterov momentum with a triangle of rates."""
    model = airbench(data)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.1, momentum=0.85, nesterov=True, weight_decay=5e-4)

    def rate(share: float) -> float:
        return 0.2 * (0.2 + 0.8 * share / 0.23 if share < 0.23 else (1 - share) / 0.77)

    return by_hand(
        model, data, seconds, optimizer=optimizer, rate=rate, batch=256, smoothing=0.2, turns=True
    )


def boosting(data: Data, seconds: float) -> float:
    """Add as many rounds of boosting as fit, by the clock of a few; returns test accuracy."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    (x, y), (x_test, y_test) = (
        (images.flatten(1).numpy(), labels.numpy()) for images, labels in (data.train, data.test)
    )
    start = time.perf_counter()
    model = HistGradientBoostingClassifier(max_iter=1, warm_start=True, early_stopping=False)
    rounds = 0
    while True:
        before = time.perf_counter()
        rounds += 5
        model.set_params(max_iter=rounds).fit(x, y)
        now = time.perf_counter()
        if now + 1.2 * (now - before) - start > seconds:
            return float((model.predict(x_test) == y_test).mean())


HANDS = {
    "resnet": plain(small_resnet), "vit": plain(vit_tiny), "airbench": records,
    "boosting": boosting,
}  # fmt: skip


def fitted(spec: str, seconds: float, macs: str | None, latency: str | None, seed: int) -> float:
    """Return the test accuracy of a fit."""
    with tempfile.TemporaryDirectory() as out:
        run = fit(
            spec, time=f"{seconds:.0f}s", macs=macs, latency=latency, seed=seed,
            out=Path(out) / "run",
        )  # fmt: skip
        return json.loads((run.path / "result.json").read_text())["test"]["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--time", default="4m")
    parser.add_argument("--macs")
    parser.add_argument("--latency")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default=",".join(WAYS))
    options = parser.parse_args()
    seconds, found = parse_duration(options.time), {}
    print(machine())
    for seed in range(options.seeds):
        data = opened(options.data, options.side, seed)
        n = len(data.test[0])
        for name in options.only.split(","):
            start = time.perf_counter()
            torch.manual_seed(seed)
            if name == "fit":
                accuracy = fitted(options.data, seconds, options.macs, options.latency, seed)
            else:
                accuracy = HANDS[name](data, seconds)
            spent = time.perf_counter() - start
            found.setdefault(name, []).append(100 * accuracy)
            print(f"{name:10} {100 * accuracy:.2f} % of {n:,} test images, {spent:.0f} s",
                  flush=True)  # fmt: skip
    for name, every in found.items():
        if len(every) > 1:
            print(f"{name:10} mean {statistics.mean(every):.2f} % of {len(every)} seeds")


if __name__ == "__main__":
    main()
