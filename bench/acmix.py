"""ACmix by tiles against the unfolded form, alternating in one run.

    python bench/acmix.py [--rounds 7] [--batch 2]

Prints medians in ms of one module (window 7, 4 heads) at the maps of ACmix-ResNet at 224 pixels:
forward unfolded, forward, forward deployed, and both with backward. The unfolded form makes
window^2 copies of keys, values and positions, as the paper's code does. Outputs are compared
before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vitrail.layers.fold import deploy
from vitrail.models.acmix import ACmix
from vitrail.models.parts.acmix_paths import Rates

# channels, side of the map, stride
MAPS = ((64, 56, 1), (128, 56, 2), (128, 28, 1), (256, 14, 1), (512, 7, 1))


def unfolded(m: ACmix, x: Tensor) -> Tensor:
    """What the module computes, with a copy of the map for every offset of the window."""
    stride, window = m.local.stride, m.local.kernel
    b, _, h, w = x.shape
    weight, bias = m.qkv.weight, m.qkv.bias
    qkv = F.conv2d(x, weight[:, :, None, None], bias)
    q, k, v = (part.reshape(b * m.heads, -1, h, w) for part in qkv.chunk(3, 1))
    places = torch.stack(
        torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")[::-1]
    )[None].to(x)
    pe = F.conv2d(places, m.position.weight[:, :, None, None], m.position.bias)
    q, own = q[:, :, ::stride, ::stride] * q.shape[1] ** -0.5, pe[:, :, ::stride, ::stride]

    def copies(part: Tensor) -> Tensor:
        padded = F.pad(part, (window // 2,) * 4, mode="reflect")
        found = F.unfold(padded, window, stride=stride)
        return found.view(len(part), part.shape[1], window**2, *q.shape[2:])

    logits = (q[:, :, None] * (copies(k) + own[:, :, None] - copies(pe))).sum(1)
    attended = (logits.softmax(1)[:, None] * copies(v)).sum(2).view(b, -1, *q.shape[2:])
    mixed = F.conv2d(qkv.view(b, 3 * m.heads, -1, h * w), m.path.fc.weight[:, :, None, None])
    mixed = mixed.transpose(1, 2).reshape(b, -1, h, w)
    conv = m.path.conv
    convolved = F.conv2d(mixed, conv.weight, None, stride, conv.padding, groups=conv.groups)
    assert isinstance(m.rates, Rates)
    return m.rates.attention * attended + m.rates.convolution * convolved


def forward(run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.inference_mode():
        run(x)


def both(run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    run(x).sum().backward()


def medians(step: Callable, forms: list[Callable], x: Tensor, rounds: int) -> list[float]:
    """Seconds of every form, taking turns."""
    times: list[list[float]] = [[] for _ in forms]
    for turn in range(rounds + 2):
        for run, found in zip(forms, times, strict=True):
            start = time.perf_counter()
            step(run, x)
            if turn > 1:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    shown = Table("map", "stride", "step", "unfolded ms", "tiles ms", "deployed ms", "ratios")
    for dim, side, stride in MAPS:
        torch.manual_seed(0)
        m = ACmix(dim, dim, 4, stride=stride)
        deployed = deploy(m)
        x = torch.randn(options.batch, dim, side, side).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            expected = unfolded(m, x)
            for other in (m, deployed):
                gap = float((other(x) - expected).abs().max())
                if gap > 1e-4:
                    raise SystemExit(f"the forms compute different things: {gap:.2g}")
        forms: list[Callable] = [lambda x, m=m: unfolded(m, x), m, deployed]
        for name, step in (("forward", forward), ("backward", both)):
            used = forms if step is forward else forms[:2]
            found = medians(step, used, x, options.rounds)
            figures = [f"{s * 1e3:.1f}" for s in found] + [""] * (3 - len(found))
            ratios = " ".join(f"{found[0] / s:.1f}" for s in found[1:])
            shown.add_row(f"{side}x{side}x{dim}", str(stride), name, *figures, ratios)
    Console().print(shown)


if __name__ == "__main__":
    main()
