"""BATS: what a binary layer costs in floats, bytes and bits, and grouped against separable.

    python bench/bats.py [--seconds 0.3]            one layer at a time, then whole nets
    python bench/bats.py --train [--seeds 5] [--epochs 2]

The first prints medians in microseconds at batch 1 on one thread, the forms taking turns, after
their outputs were found equal bit by bit: the convolution, sign and scale of a layer as it is
trained, with weights kept as signs in float32, in bytes (what `deploy` takes), and in bits, by
exclusive or and `numpy.bitwise_count` (layers of 1x1 only: bits of a window would have to be
gathered as well). The second trains small binary nets on the bundled sample of Fashion-MNIST,
5,000 images, and prints accuracy on 1,000 others: cells with grouped convolutions against the
same cells with separable ones, as in DARTS, seed by seed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import vitrail
from vitrail.data.builtin import SAMPLES, unpack_sheet
from vitrail.layers.binary import BinaryConv2d, ByteConv2d, Make, Plain
from vitrail.layers.conv import Conv2d
from vitrail.layers.fold import deploy
from vitrail.layers.linear import frozen
from vitrail.measure.latency import alternate, threads_set
from vitrail.models.bats import BATS, Config
from vitrail.models.parts.bats_cells import OPERATIONS, Convolutions, Layer, Operation

# channels in and out, kernel, dilation, groups, side: those of the CIFAR net, then of ImageNet's
LAYERS = [
    (wide * dim, dim, kernel, dilation, groups, side)
    for dim, side in ((36, 32), (72, 16), (144, 8), (48, 28), (96, 14), (192, 7))
    for wide, kernel, dilation, groups in (
        (1, 3, 1, 12),
        (1, 5, 1, 12),
        (1, 5, 2, 12),
        (4, 1, 1, 1),
    )
]


def bits(layer: ByteConv2d, x: Tensor) -> Callable[[], Tensor]:
    """A 1x1 layer on packed signs: C less twice the number of bits that differ."""
    scale = layer.scale.numpy()

    def words(signs: np.ndarray) -> np.ndarray:
        packed = np.packbits(signs > 0, axis=1)
        return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)

    weight = words(layer.signs[:, :, 0, 0].numpy())

    def run() -> Tensor:
        b, c, h, w = x.shape
        found = words(x.permute(0, 2, 3, 1).reshape(-1, c).numpy())
        differ = np.zeros((len(found), len(weight)), np.int16)
        for k in range(
            weight.shape[1]
        ):  # a word at a time: the counts of all would not fit a cache
            differ += np.bitwise_count(found[:, k, None] ^ weight[:, k])
        y = (c - 2 * differ).astype(np.float32) * scale
        return torch.from_numpy(y).view(b, h, w, -1).permute(0, 3, 1, 2)

    return run


class Signs(nn.Module):
    """Weights kept as signs in float32, in oneDNN's format."""

    def __init__(self, layer: BinaryConv2d) -> None:
        super().__init__()
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
        geometry = (layer.padding, layer.dilation, layer.groups)
        self.conv = Conv2d(*sizes, *geometry, bias=False)  # pyright: ignore[reportArgumentType]
        signs = layer.weight.detach().sign().contiguous(memory_format=torch.channels_last)
        self.conv.weight, self.scale = frozen(signs), layer.alpha.detach()[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.sign()) * self.scale


def layers(seconds: float) -> Table:
    shown = Table("layer", "map", "trained", "signs", "bytes", "bits", "bytes / signs")
    for dim_in, dim, kernel, dilation, groups, side in LAYERS:
        torch.manual_seed(0)
        padding = kernel // 2 * dilation
        sizes = (dim_in, dim, kernel, 1, padding, dilation, groups)
        trained = BinaryConv2d(*sizes, binariser=Plain())
        trained.weight.data = trained.weight.contiguous(memory_format=torch.channels_last)
        nn.init.normal_(trained.alpha)
        deployed = deploy(trained)
        assert isinstance(deployed, ByteConv2d)
        x = torch.randn(1, dim_in, side, side).contiguous(memory_format=torch.channels_last)
        signs = Signs(trained)
        forms: list[Callable[[], Tensor]] = [
            lambda m=trained, x=x: m(x),
            lambda m=signs, x=x: m(x),
            lambda m=deployed, x=x: m(x),
        ]
        if kernel == 1:
            forms.append(bits(deployed, x))
        with torch.inference_mode(), threads_set(1):
            expected = forms[0]()
            if not all(torch.equal(run(), expected) for run in forms):
                raise SystemExit("the forms compute different things")
            found = [latency.p50_s for latency in alternate(forms, seconds=seconds)]
        name = f"{dim_in} to {dim}, {kernel}x{kernel}" + (" dilated" if dilation > 1 else "")
        figures = [f"{s * 1e6:.0f}" for s in found] + [""] * (4 - len(found))
        shown.add_row(name, f"{side}x{side}", *figures, f"{found[2] / found[1]:.2f}")
    return shown


def nets(seconds: float) -> Table:
    shown = Table("net", "binary", "as trained ms", "deployed ms", "ratio")
    for name in ("bats_cifar", "bats_imagenet"):
        for binary in ("none", "inputs", "sign"):
            torch.manual_seed(0)
            model = vitrail.create(name, binary=binary).eval()
            x, deployed = torch.randn(1, 3, *model.config.image), deploy(model)
            forms = [lambda m=m, x=x: m(x) for m in (model, deployed)]
            with torch.inference_mode(), threads_set(1):
                before, after = (run.p50_s for run in alternate(forms, seconds=4 * seconds))
            figures = [f"{s * 1e3:.1f}" for s in (before, after)]
            shown.add_row(name, binary, *figures, f"{before / after:.2f}")
    return shown


# ---- grouped against separable --------------------------------------------------------------


def separable(kernel: int, dilation: int = 1) -> Operation:
    """DARTS's operation with the layers and shortcuts of BATS: depthwise and 1x1, and unless it
    is dilated the same again."""

    def build(dim: int, stride: int, groups: int, make: Make) -> nn.Module:
        found = []
        for step in (stride, 1) if dilation == 1 else (stride,):
            padding = kernel // 2 * dilation
            depthwise = make(dim, dim, kernel, step, padding, dilation, groups=dim)
            found += [Layer(dim, dim, depthwise), Layer(dim, dim, make(dim, dim, 1))]
        return Convolutions(*found, shuffle=True, shortcut=stride == 1)

    return build


SEPARABLE = {
    **OPERATIONS,
    **{f"sep_conv_{k}x{k}": separable(k) for k in (3, 5)},
    **{f"dil_conv_{k}x{k}": separable(k, 2) for k in (3, 5)},
}


def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and others to judge by."""
    pixels, labels = unpack_sheet(SAMPLES / "fashion_train.png", 600)
    images = torch.from_numpy(pixels).float()[:, None] / 255
    images, targets = (images - images.mean()) / images.std(), torch.from_numpy(labels).long()
    judged = torch.arange(len(images)) % 6 == 0
    return images[~judged], targets[~judged], images[judged], targets[judged]


def accuracy(model: nn.Module, data: tuple[Tensor, ...], *, seed: int, epochs: int) -> float:
    """Per cent right after AdamW with a cosine, batches of 64 images, mirrored or not."""
    images, targets, judged, expected = data
    random = torch.Generator().manual_seed(seed)
    total = epochs * (len(images) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=random).split(64)[:-1]:
            batch = images[rows]
            batch = batch.flip(3) if torch.rand((), generator=random) < 0.5 else batch
            optimizer.zero_grad()
            F.cross_entropy(model(batch), targets[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        right = torch.cat([model(part).argmax(1) for part in judged.split(250)]) == expected
    return 100 * float(right.float().mean())


def train(seeds: int, epochs: int, binaries: list[str]) -> Table:
    shown = Table("binary", "seed", "grouped %", "separable %", "parameters")
    sizes = {"dim": 12, "cells": 3, "groups": 4, "auxiliary": False}
    config = replace(Config(**sizes), image=(28, 28), channels=1)
    data = parts()
    for binary in binaries:
        found: list[list[float]] = [[], []]
        for seed in range(seeds):
            params = []
            for operations, scores in zip((OPERATIONS, SEPARABLE), found, strict=True):
                torch.manual_seed(seed)
                model = BATS(replace(config, binary=binary), operations=operations)
                params.append(sum(p.numel() for p in model.parameters()))
                scores.append(accuracy(model, data, seed=seed, epochs=epochs))
            row = [f"{scores[-1]:.1f}" for scores in found]
            Console(stderr=True).print(f"{binary}, seed {seed}: {' and '.join(row)} %")
            shown.add_row(binary, str(seed), *row, " and ".join(map(str, params)))
        means = [statistics.mean(scores) for scores in found]
        ahead = [a - b for a, b in zip(*found, strict=True)]
        spread = statistics.stdev(ahead) if len(ahead) > 1 else float("nan")
        shown.add_row(
            binary, "mean", *[f"{m:.1f}" for m in means],
            f"{statistics.mean(ahead):+.1f} +- {spread:.1f}",
        )  # fmt: skip
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--binary", default="none,sign")
    options = parser.parse_args()
    show = Console().print
    if options.train:
        show(train(options.seeds, options.epochs, options.binary.split(",")))
        return
    show(layers(options.seconds))
    show(nets(options.seconds))


if __name__ == "__main__":
    main()
