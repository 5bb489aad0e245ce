"""Where a model's time goes: each kind of operation, its share, and its rate beside the machine's.

    python bench/hotspots.py [--batch 8] [--training] [variant ...]

Products are told apart from what only moves or bends numbers. For products the rate is that of
their multiply-adds, as a share of a large matrix product's measured in the same process; for the
rest it is the bytes of its arguments a second, as a share of what a copy of 64 MB reads and writes:
what an operation writes is not counted.
"""

from __future__ import annotations

import argparse
import math
import os
from collections import defaultdict
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch
from rich.console import Console
from rich.table import Table

import vitrail
from vitrail.bench.steps import forward, training
from vitrail.layers.fold import deploy
from vitrail.measure.latency import summary, turns
from vitrail.measure.peak import product
from vitrail.models.trunk.backbone import input_shape

VARIANTS = ("deit_tiny", "vit_ti16", "levit_128s", "xcit_nano_12_p16", "swin_tiny", "volo_d1_224")
LEAST = 0.02


@dataclass
class Kind:
    """Seconds, calls, multiply-adds times two, and bytes read by one kind of operation."""

    seconds: float = 0.0
    calls: int = 0
    flops: float = 0.0
    bytes: float = 0.0


def flops(name: str, shapes: list[list[int]]) -> float:
    """Of a product by the shapes of its arguments, 0 for what is none."""
    a, b = ([*shapes, [], []])[:2]
    if name in ("aten::mm", "aten::bmm") and a and b:
        return 2.0 * math.prod(a) * b[-1]
    if name in ("aten::addmm", "aten::baddbmm") and len(shapes) > 2 and shapes[1] and shapes[2]:
        return 2.0 * math.prod(shapes[1]) * shapes[2][-1]
    if "linear_pointwise" in name and a and b:
        return 2.0 * math.prod(a) * b[0]
    if "flash_attention_for_cpu" in name and a and b and "backward" not in name:
        return 4.0 * math.prod(a) * b[-2]
    return 0.0


def profiled(call, rounds: int) -> dict[str, Kind]:
    """Kinds of operations by their own time, a call's share of `rounds` calls."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True, acc_events=True
    ) as found:
        for _ in range(rounds):
            call()
    kinds: dict[str, Kind] = defaultdict(Kind)
    for event in found.key_averages(group_by_input_shape=True):
        kind = kinds[event.key]
        shapes = event.input_shapes or []
        kind.seconds += event.self_cpu_time_total / 1e6 / rounds
        kind.calls += event.count // rounds
        kind.flops += flops(event.key, shapes) * event.count / rounds
        moved = sum(math.prod(s) for s in shapes if isinstance(s, list) and s)
        kind.bytes += 4.0 * moved * event.count / rounds
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    console = Console(width=110)
    multiply, operations = product(torch.float32, "cpu")
    source = torch.randn(16 << 20)
    target = torch.empty_like(source)
    calls = [multiply, lambda: target.copy_(source)]
    of_product, of_copy = (summary(times).p50_s for times in turns(calls, seconds=1.0))
    peak, stream = operations / of_product, 2 * source.nbytes / of_copy
    console.print(f"product {peak / 1e9:.0f} GFLOP/s, copy {stream / 1e9:.1f} GB/s")
    for name in options.variants:
        torch.manual_seed(0)
        model = vitrail.create(name)
        images = torch.randn(options.batch, *input_shape(model.config))
        if options.training:
            call = training(model, images, torch.arange(options.batch) % 7)
        else:
            call = forward(deploy(model), images)
        call()
        wall = summary(turns([call], seconds=2.0)[0]).p50_s
        kinds = profiled(call, options.rounds)
        total = sum(kind.seconds for kind in kinds.values())
        table = Table(box=None, header_style="bold", title=f"{name}, {wall * 1e3:.1f} ms")
        for title in ("operation", "calls", "ms", "share", "of product", "of copy"):
            table.add_column(title, justify="left" if title == "operation" else "right")
        rest = 0.0
        for what, kind in sorted(kinds.items(), key=lambda pair: -pair[1].seconds):
            if kind.seconds < LEAST * total:
                rest += kind.seconds
                continue
            rate = f"{kind.flops / kind.seconds / peak:.0%}" if kind.flops else ""
            moved = f"{kind.bytes / kind.seconds / stream:.0%}" if not kind.flops else ""
            cells = (f"{kind.seconds * 1e3:.2f}", f"{kind.seconds / total:.0%}", rate, moved)
            table.add_row(what.removeprefix("aten::"), str(kind.calls), *cells)
        table.add_row("all others", "", f"{rest * 1e3:.2f}", f"{rest / total:.0%}", "", "")
        console.print(table)


if __name__ == "__main__":
    main()
