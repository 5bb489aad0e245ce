"""Eager inference of every family against its peers, same weights, same run, alternating.

    python bench/speed.py [--threads 2] [--rounds 15] [--json FILE] [variant ...]

Prints medians in ms at batch 1 and 8, the ratio of the fastest peer to ours, and the same
after exact folding (`vitrail.layers.fold.deploy`). Outputs are compared before anything is
timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import peers
import timm
import torch
import torchvision
import transformers
from rich.console import Console
from rich.table import Table

import vitrail
from vitrail.layers.fold import deploy
from vitrail.measure.machine import machine


@torch.inference_mode()
def medians(models: dict[str, torch.nn.Module], x: torch.Tensor, rounds: int) -> dict[str, float]:
    """Median seconds of each model, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 2):
        for name, model in models.items():
            start = time.perf_counter()
            model(x)
            if turn > 1:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def compare(name: str, rounds: int) -> list[dict]:
    """One row a batch size: medians in seconds of ours, ours folded, and every peer."""
    torch.manual_seed(0)
    others = {who: peers.scattered(make()) for who, make in peers.PEERS[name].items()}
    for who, model in others.items():
        ours = vitrail.load(name, model.state_dict(), source=who)
        x = torch.randn(2, ours.config.channels, *ours.config.image)
        with torch.inference_mode():
            mine, theirs = ours(x), peers.logits(model(x))
        gap = float((mine - theirs).abs().max() / mine.std())
        if gap > 1e-3:
            raise SystemExit(f"{name} and {who} compute different things: {gap:.2g}")
    models = {"vitrail": ours, "folded": deploy(ours), **others}
    shape = (ours.config.channels, *ours.config.image)
    return [
        {"variant": name, "batch": b, "seconds": medians(models, torch.randn(b, *shape), rounds)}
        for b in (1, 8)
    ]


def cells(row: dict) -> list[str]:
    """What the table says of a row."""
    seconds = row["seconds"]
    rivals = {k: v for k, v in seconds.items() if k not in ("vitrail", "folded")}
    best = min(rivals, key=lambda k: rivals[k])
    ratios = [f"{rivals[best] / seconds[k]:.2f}" for k in ("vitrail", "folded")]
    times = [f"{seconds[k] * 1e3:.1f}" for k in ("vitrail", "folded", best)]
    return [row["variant"], str(row["batch"]), *times, best, *ratios]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=list(peers.PEERS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the medians to this file, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console(width=100)
    facts = machine() | {m.__name__: m.__version__ for m in (timm, transformers, torchvision)}
    console.print(facts)
    table = Table(box=None, header_style="bold")
    for title in ("variant", "batch", "ours ms", "folded", "peer", "which", "eager x", "folded x"):
        table.add_column(title, justify="left" if title in ("variant", "which") else "right")
    rows = []
    for name in options.variants:
        found = compare(name, options.rounds)
        rows += found
        for row in found:
            table.add_row(*cells(row))
            console.print("  ".join(cells(row)), style="dim")
    console.print(table)
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
