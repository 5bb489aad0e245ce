"""Local attention with relative logits against the F.unfold form, alternating in one run.

    python bench/local_attention.py [--rounds 9] [--batch 4]

Prints medians in ms, forward and with backward, of HaloNet's layer (blocks of 8, halo of 3) and
SASA's (7x7), the ratio, and the ratio without the projections, which both have. Outputs are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vitrail.models.halonet import HaloAttention
from vitrail.models.sasa import LocalAttention

HEADS, BLOCK, HALO, KERNEL = 8, 8, 3, 7
MAPS = {64: 64, 56: 64, 32: 128, 28: 128, 16: 256, 14: 256}  # side of a map, and channels there


def cut(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """(B, n d, H, W) to (B n, windows, size^2, d)."""
    windows = F.unfold(x, size, padding=padding, stride=stride)
    windows = windows.view(len(x) * HEADS, x.shape[1] // HEADS, size**2, -1)
    return windows.permute(0, 3, 2, 1)


def offsets(queries: int, keys: int) -> Tensor:
    """Key minus query + keys - 1."""
    return torch.arange(keys) - torch.arange(queries)[:, None] + keys - 1


def halo_unfolded(q: Tensor, kv: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """q (B, n d, H, W), kv (B, n 2 d, H, W); tables (2 w - 1, d)."""
    size, d = BLOCK + 2 * HALO, q.shape[1] // HEADS
    grid = q.shape[2:]
    q = cut(q, BLOCK, BLOCK, 0)
    k, v = cut(kv, size, BLOCK, HALO).split(d, -1)
    index = offsets(BLOCK, size)
    places = rows[index][:, None, :, None] + columns[index][None, :, None]
    relative = torch.einsum("bntd,tsd->bnts", q, places.flatten(2, 3).flatten(0, 1))
    out = (q @ k.mT * d**-0.5 + relative).softmax(-1) @ v
    out = out.permute(0, 3, 2, 1).reshape(-1, HEADS * d * BLOCK**2, out.shape[1])
    return F.fold(out, grid, BLOCK, stride=BLOCK)


def sasa_unfolded(q: Tensor, kv: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """q (B, n d, H, W), kv (B, 2 n d, H, W); tables (k, d / 2)."""
    grid, d = q.shape[2:], q.shape[1] // HEADS
    k, v = (cut(x, KERNEL, 1, KERNEL // 2) for x in kv.chunk(2, 1))
    q = q.reshape(-1, d, 1, grid.numel()).permute(0, 3, 2, 1)
    places = torch.cat(
        [
            columns[None].expand(KERNEL, -1, -1),
            rows[:, None].expand(-1, KERNEL, -1),
        ],
        -1,
    )
    out = (q @ (k + places.flatten(0, 1)).mT).softmax(-1) @ v
    return out.permute(0, 3, 2, 1).reshape(-1, HEADS * d, *grid)


def medians(step: Callable, forms: list[Callable], rounds: int) -> list[float]:
    """Seconds of every form, taking turns."""
    times: list[list[float]] = [[] for _ in forms]
    for turn in range(rounds + 1):
        for form, found in zip(forms, times, strict=True):
            start = time.perf_counter()
            step(form)
            if turn:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def forward(form: Callable[[], Tensor]) -> None:
    with torch.inference_mode():
        form()


def both(form: Callable[[], Tensor]) -> None:
    form().sum().backward()


Built = tuple[nn.Module, Callable[[Tensor], Tensor], list[nn.Linear]]


def halo(dim: int) -> Built:
    """The layer, the unfolded form of it on a channels-first map, and its projections."""
    layer = HaloAttention(dim, HEADS, block=BLOCK, halo=HALO)

    def unfolded(x: Tensor) -> Tensor:
        q, kv = (F.conv2d(x, m.weight[:, :, None, None]) for m in (layer.q, layer.kv))
        return halo_unfolded(q, kv, layer.position.rows, layer.position.columns)

    return layer, unfolded, [layer.q, layer.kv]


def sasa(dim: int) -> Built:
    """The layer, the unfolded form of it on a channels-first map, and its projections."""
    layer = LocalAttention(dim, HEADS, KERNEL)

    def unfolded(x: Tensor) -> Tensor:
        q, kv = F.conv2d(x, layer.qkv.weight[:, :, None, None]).split((dim, 2 * dim), 1)
        return sasa_unfolded(q, kv, layer.rows, layer.columns)

    return layer, unfolded, [layer.qkv]


def convolved(projections: list[nn.Linear], x: Tensor) -> Tensor:
    """The projections alone, of a channels-first map."""
    return torch.cat([F.conv2d(x, m.weight[:, :, None, None]) for m in projections], 1)


def applied(projections: list[nn.Linear], x: Tensor) -> Tensor:
    """The projections alone, of a channels-last map."""
    return torch.cat([m(x) for m in projections], -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    shown = Table("layer", "map", "step", "unfold ms", "ours ms", "ratio", "attention alone")
    for build in (halo, sasa):
        for side, dim in MAPS.items():
            if build is halo and side % BLOCK:
                continue
            torch.manual_seed(0)
            layer, unfolded, projections = build(dim)
            x = torch.randn(options.batch, dim, side, side)
            last = x.contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                gap = float((unfolded(x) - layer(last)).abs().max())
            if gap > 1e-4:
                raise SystemExit(f"the forms compute different things: {gap:.2g}")
            forms = [
                partial(unfolded, x),
                partial(layer, last),
                partial(convolved, projections, x),
                partial(applied, projections, last.permute(0, 2, 3, 1)),
            ]
            for step in (forward, both):
                slow, fast, *rest = medians(step, forms, options.rounds)
                shown.add_row(
                    f"{build.__name__}, {dim} channels",
                    f"{side}x{side}",
                    step.__name__,
                    f"{slow * 1e3:.1f}",
                    f"{fast * 1e3:.1f}",
                    f"{slow / fast:.1f}",
                    f"{(slow - rest[0]) / (fast - rest[1]):.1f}",
                )
    Console().print(shown)


if __name__ == "__main__":
    main()
