"""What the same wall time gives: vitrail's fit, and what one would write by hand.

    python bench/accuracy.py [--time 10m] [--macs 30M] [--only fit,resnet,vit,boosting]

All learn from full Fashion-MNIST on this machine, each within `--time`: `vitrail fit` (race
included), a fixed small ResNet (timm's, widths 32, 64, 128, a 3x3 stem) and a fixed ViT-Tiny
of patch 4 (timm's) in a plain AdamW loop with cosine, flips and shifts, and scikit-learn's
HistGradientBoosting on pixels. Prints test accuracy on the 10,000 test images, and the
machine. Needs the built-in `fashion-mnist`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch

from vitrail.data.builtin import DEBIAN, fashion_pair
from vitrail.jobs.fit import fit
from vitrail.measure.machine import machine
from vitrail.units import parse_duration


def small_resnet() -> torch.nn.Module:
    """Stem of 64 channels of stride 2, then a basic block each at 14, 7 and 4 pixels."""
    model = timm.models.ResNet(
        timm.models.resnet.BasicBlock,
        layers=(1, 1, 1),
        channels=(32, 64, 128),
        num_classes=10,
        in_chans=1,
    )
    model.conv1 = torch.nn.Conv2d(1, 64, 3, 2, 1, bias=False)
    model.maxpool = model.layer4 = torch.nn.Identity()
    return model


def vit_tiny() -> torch.nn.Module:
    return timm.models.VisionTransformer(
        img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=192, depth=12, num_heads=3
    )


def by_hand(model: torch.nn.Module, data: dict, seconds: float, batch: int = 128) -> float:
    """Train for `seconds`, the last tenth of which is not needed; the learning rate follows
    the clock. Returns test accuracy."""
    start = time.perf_counter()
    torch.manual_seed(0)
    images, labels = torch.from_numpy(data["train"][0]), torch.from_numpy(data["train"][1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    lose = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    while (share := (time.perf_counter() - start) / (0.95 * seconds)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, share / 0.02) * 0.5 * (1 + math.cos(math.pi * share))
        chosen = torch.randint(len(labels), (batch,))
        x = (images[chosen].float() / 255 - 0.286) / 0.353
        x = torch.where(torch.rand(batch, 1, 1) < 0.5, x.flip(2), x)
        dy, dx = torch.randint(-2, 3, (2,)).tolist()
        x = x.roll((dy, dx), (1, 2))[:, None]
        optimizer.zero_grad()
        lose(model(x), labels[chosen]).backward()
        optimizer.step()
    return test(model, data)


@torch.inference_mode()
def test(model: torch.nn.Module, data: dict) -> float:
    model.eval()
    images, labels = data["test"]
    x = (torch.from_numpy(images).float()[:, None] / 255 - 0.286) / 0.353
    guesses = torch.cat([model(part).argmax(1) for part in x.split(500)])
    return float((guesses.numpy() == labels).mean())


def boosting(data: dict, seconds: float) -> float:
    """As many rounds of boosting as fit, by the clock of a few; returns test accuracy."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    (x, y), (x_test, y_test) = (
        (images.reshape(len(images), -1), labels) for images, labels in data.values()
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


def fitted(seconds: float, macs: str, out: Path) -> float:
    fit("fashion-mnist", time=f"{seconds:.0f}s", macs=macs, out=out / "run")
    return json.loads((out / "run" / "result.json").read_text())["test"]["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time", default="10m")
    parser.add_argument("--macs", default="30M")
    parser.add_argument("--only", default="fit,resnet,vit,boosting")
    options = parser.parse_args()
    seconds = parse_duration(options.time)
    data = {}
    for part in ("train", "test"):
        images, labels = fashion_pair(DEBIAN, part)
        data[part] = images.copy(), labels.astype(np.int64)
    print(machine())
    for name in options.only.split(","):
        start = time.perf_counter()
        if name == "fit":
            with tempfile.TemporaryDirectory() as out:
                accuracy = fitted(seconds, options.macs, Path(out))
        elif name == "boosting":
            accuracy = boosting(data, seconds)
        else:
            accuracy = by_hand({"resnet": small_resnet, "vit": vit_tiny}[name](), data, seconds)
        spent = time.perf_counter() - start
        found = f"{100 * accuracy:.2f} % of 10,000 test images"
        print(f"{name:10} {found} in {spent:.0f} s", flush=True)


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
