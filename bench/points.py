"""Speed of what surrounds a network of lidar scans: projections, and KPConv beside a loop.

    python bench/points.py [--points 120000] [--refined 20000] [--rounds 7]

Both projections lay the points of a scan on a range image. KPConv computes all kernel points in one
product, its twin gathers the neighbours' features for each kernel point in turn and multiplies
fifteen times; they take turns, and their answers are compared first. Times are the quickest and the
median of some rounds, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from turns import measured

from vitrail.data.lidar.near import nearest
from vitrail.data.lidar.projection import ByScan, Spherical
from vitrail.measure.latency import threads_set
from vitrail.measure.machine import machine
from vitrail.models.parts.kpconv import KPConv


def looped(conv: KPConv, xyz: Tensor, x: Tensor, near: Tensor) -> Tensor:
    """What KPConv computes, neighbour by neighbour and kernel point by kernel point."""
    total = x.new_zeros(len(xyz), conv.weights.shape[2])
    for kernel, weight in zip(conv.kernel_points, conv.weights, strict=True):
        summed = torch.zeros_like(x)
        for column in near.unbind(1):
            far = (xyz[column] - xyz - kernel).norm(dim=1)
            summed += (1 - far / conv.extent).clamp_min(0)[:, None] * x[column]
        total += summed @ weight
    return total


def scan(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around a sensor, ring after ring as a file has them."""
    random = np.random.default_rng(0)
    each = points // 64
    azimuth = np.tile(np.linspace(0, 2 * np.pi, each, endpoint=False), 64)
    elevation = np.repeat(np.radians(np.linspace(3, -25, 64)), each)
    depth = random.uniform(3, 60, len(azimuth))
    flat = depth * np.cos(elevation)
    xyz = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), depth * np.sin(elevation)], 1)
    return xyz.astype(np.float32), random.random(len(xyz)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=120_000)
    parser.add_argument("--refined", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    xyz, intensity = scan(asked.points)
    calls: dict[str, Callable[[], object]] = {
        "spherical, 32x2048": lambda: Spherical().image(xyz, intensity),
        "by scan, 64x2048": lambda: ByScan().image(xyz, intensity),
    }
    torch.manual_seed(0)
    conv, x = KPConv(asked.dim, asked.dim), torch.randn(asked.refined, asked.dim)
    some = torch.from_numpy(xyz[: asked.refined])
    near = torch.from_numpy(nearest(xyz[: asked.refined], 7))
    with torch.inference_mode(), threads_set(1):
        gap = float((conv(some, x, near) - looped(conv, some, x, near)).abs().max())
        turns: dict[str, Callable[[], object]] = {
            "kpconv": lambda: conv(some, x, near),
            "by loop": lambda: looped(conv, some, x, near),
        }
        spent = measured(calls, asked.rounds) | measured(turns, asked.rounds)  # pyright: ignore
    console = Console()
    console.print(f"{len(xyz):,} points; kpconv of {asked.refined:,} points, {asked.dim} channels")
    for who, times in spent.items():
        middle = statistics.median(times)
        console.print(f"{who}: {1e3 * min(times):.1f} ms at best, median {1e3 * middle:.1f} ms")
    ratio = statistics.median(b / a for a, b in zip(spent["kpconv"], spent["by loop"], strict=True))
    console.print(f"kpconv is {ratio:.2f} times as fast as the loop; answers differ by {gap:.1e}")
    console.print(str(machine()))


if __name__ == "__main__":
    main()
