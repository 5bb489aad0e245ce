"""Growth of time and memory with the side of the image, the batch and the depth."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

import vitrail
from vitrail.bench import record
from vitrail.bench.steps import forward
from vitrail.config import parse
from vitrail.errors import BenchError, ConfigError
from vitrail.layers.fold import deploy
from vitrail.measure.counts import counts
from vitrail.measure.latency import threads_set
from vitrail.measure.machine import cores, machine
from vitrail.measure.memory import peak_bytes
from vitrail.models import catalog, resolve
from vitrail.models.trunk.backbone import input_kind
from vitrail.report.growth import Growth, GrowthFacts, Point, render_growth
from vitrail.run.place import check_writable

FILE = "growth.json"
SIDES, BATCHES, DEPTHS = (64, 128, 256, 512, 1024), (1, 2, 4, 8), (1, 2, 3)
# A call that is foreseen to take longer is left out: a family of 43 is not worth the wait.
LONGEST_S = 20.0
GIB = 2**30


def growth(
    names: Sequence[str],
    *,
    threads: int | None = None,
    sides: Sequence[int] = SIDES,
    out: Path | None = None,
    resume: bool = False,
    on_row: Callable[[Growth], None] = lambda row: None,
) -> GrowthFacts:
    """Measure each variant, one after the other, folded and in eval mode.

    With `out` figures and page are written there; with `resume` variants that are there are not
    measured again. Raises BenchError and ConfigError.
    """
    if len(sides) < 2 or min(sides) < 1:
        raise BenchError(f"sides {tuple(sides)}: give two or more, e.g. 64,128,256")
    if out is not None:
        check_writable(out, "folder")
    facts = GrowthFacts(machine(), threads or cores(), [])
    if out is not None and (out / FILE).exists():
        if not resume:
            raise BenchError(
                f"{out} holds figures: continue with --resume, or choose another --out"
            )
        before = read(out)
        if before.threads != facts.threads:
            raise BenchError(
                f"{out} holds figures of {before.threads} threads, not of {facts.threads}: choose "
                "another --out"
            )
        facts = replace(facts, rows=before.rows)
    done = {row.variant for row in facts.rows}
    with threads_set(threads):
        for name in names:
            if name in done:
                continue
            row = grown(name, sides)
            facts = replace(facts, rows=[*facts.rows, row])
            if out is not None:
                keep(facts, out)
            on_row(row)
    return facts


def grown(name: str, sides: Sequence[int] = SIDES) -> Growth:
    """Measure one variant; sides that it refuses or that would take too long are noted."""
    resolve(name)  # says which name was meant
    variant = catalog()[name]
    if (kind := input_kind(variant.config)) != "images":
        raise BenchError(f"{name} takes {kind}: give a model that takes images")
    notes: list[str] = []
    by_side = [p for _, p in _walk([(s, {"image": (s, s)}, 1) for s in sides], name, notes)]
    native = variant.config.image
    by_batch = [p for _, p in _walk([(b, {"image": native}, b) for b in BATCHES], name, notes)]
    deeper = [(n, {"image": native, **_deeper(variant.config, n)}, 1) for n in DEPTHS]
    by_depth = [p for _, p in _walk(deeper, name, notes)] if _depth(variant.config) else []
    said = "; ".join(dict.fromkeys(notes))
    return Growth(name, variant.family, by_side, by_batch, by_depth, said)


def _walk(
    asked: Sequence[tuple[int, dict[str, Any], int]], name: str, notes: list[str]
) -> Iterator[tuple[int, Point]]:
    """Measure points in their order, until one is expected to take too long or too much memory."""
    last: Point | None = None
    for x, changes, batch in asked:
        try:
            config = resolve(name, **changes)
            with torch.device("meta"):
                found = counts(vitrail.create(config), config.image, config.channels)
        except (ConfigError, ValueError, RuntimeError) as error:
            notes.append(f"refuses {x}: {str(error).splitlines()[0]}")
            continue
        macs = found.macs * batch
        if last is not None:
            factor = macs / last.macs
            if factor * last.latency_s > LONGEST_S:
                notes.append(f"{x} left out, it would take {factor * last.latency_s:.0f} s")
                return
            # What is quadratic in memory may be quadratic in bytes even where time is not.
            if factor**1.5 * last.memory_bytes > 8 * GIB:
                notes.append(f"{x} left out for its memory")
                return
        latency, memory = _measured(config, batch)
        last = Point(x, latency, memory, macs)
        yield x, last


def _measured(config: Any, batch: int) -> tuple[float, int]:
    torch.manual_seed(0)
    model = deploy(vitrail.create(config))
    call = forward(model, torch.randn(batch, config.channels, *config.image))
    call()  # prepares kernels and keeps what can be kept
    times: list[float] = []
    stop = time.perf_counter() + 1.0
    while len(times) < 3 or (time.perf_counter() < stop and len(times) < 15):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times), peak_bytes(call)


def _depth(config: Any) -> str:
    """Return the field that holds the number of blocks, None where there is none."""
    names = {f.name for f in fields(config)}
    return next((name for name in ("depths", "depth") if name in names), "")


def _deeper(config: Any, times: int) -> dict[str, Any]:
    name = _depth(config)
    if not name:
        return {}
    value = getattr(config, name)
    more = tuple(times * d for d in value) if isinstance(value, tuple) else times * value
    return {name: more}


def keep(facts: GrowthFacts, out: Path) -> None:
    """Write figures and page. Raises BenchError."""
    text = json.dumps(asdict(facts), indent=1) + "\n"
    record.write(out, {FILE: text, "growth.html": render_growth(facts)})


def read(out: Path) -> GrowthFacts:
    """Read the figures that a measurement left in its folder. Raises BenchError."""

    def made(told: Any) -> GrowthFacts:
        rows = [parse(Growth, row) for row in told["rows"]]
        return GrowthFacts(told["machine"], told["threads"], rows)

    return record.read(out / FILE, made)
