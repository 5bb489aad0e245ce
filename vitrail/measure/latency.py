"""Latency by the clock: warm-up, many single runs, median and 90th percentile."""

from __future__ import annotations

import hashlib
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vitrail import files
from vitrail.errors import ConfigError
from vitrail.measure.machine import cores, processor, versions
from vitrail.measure.session import session

# A latency that was measured in a busy moment should not be believed for ever.
KEPT_S = 7 * 24 * 3600


@dataclass(frozen=True)
class Latency:
    """Median, 90th and 95th percentile of n runs, and the quickest, in seconds.

    The last two are None where they were not kept.
    """

    p50_s: float
    p90_s: float
    n: int
    p95_s: float | None = None
    least_s: float | None = None

    @property
    def quickest_s(self) -> float:
        """Return the quickest run, which says most where other programs disturb the median."""
        return self.p50_s if self.least_s is None else self.least_s

    def __post_init__(self) -> None:
        known = (self.p50_s, self.p90_s, *(() if self.p95_s is None else (self.p95_s,)))
        if self.n < 1 or not all(0 <= one < math.inf for one in known):
            raise ConfigError(f"{known} of {self.n} runs are not times")


@contextmanager
def threads_set(threads: int | None) -> Iterator[None]:
    """Let torch compute with that many threads inside (None: unchanged), and as before after."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def turns(
    calls: Sequence[Callable[[], Any]],
    *,
    seconds: float,
    least: int = 5,
    advance: Callable[[float], None] = lambda spent: None,
) -> list[list[float]]:
    """Measure the seconds of each run of each call, the calls taking turns.

    So a busy moment hits them all; run n of every call belongs to round n. Each call gets a tenth
    of its share as warm-up, two runs at least, and then about `seconds` of measurement, `least`
    runs at least. After each round `advance` is told the seconds that it took.
    """
    for call in calls:
        _repeat(call, seconds / 10, 2)
    times: list[list[float]] = [[] for _ in calls]
    stop = time.perf_counter() + seconds * len(calls)
    while len(times[-1]) < least or time.perf_counter() < stop:
        turn = time.perf_counter()
        for call, spent in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            spent.append(time.perf_counter() - start)
        advance(time.perf_counter() - turn)
    return times


def alternate(
    calls: Sequence[Callable[[], Any]],
    *,
    seconds: float,
    advance: Callable[[float], None] = lambda spent: None,
) -> list[Latency]:
    """Measure the latency of each call, in turns."""
    return [summary(spent) for spent in turns(calls, seconds=seconds, advance=advance)]


def summary(times: Sequence[float]) -> Latency:
    """Return the median, 90th and 95th percentile of runs."""
    ordered = sorted(times)
    n = len(ordered)
    return Latency(ordered[n // 2], ordered[n * 9 // 10], n, ordered[n * 19 // 20], ordered[0])


def ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Return how many times as long `slow` takes as `fast`: the median over rounds, and the ends
    of its 95 % interval.

    The interval is that of the sign test, which asks nothing of the distribution: the ranks
    between which the median of so many independent rounds lies. Few rounds reach from the
    least to the largest, and below six that interval holds less than 95 %.
    """
    found = sorted(a / b for a, b in zip(slow, fast, strict=True))
    n = len(found)
    low = max(0, math.floor((n - 1.96 * math.sqrt(n)) / 2) - 1)
    return statistics.median(found), found[low], found[n - 1 - low]


def eager_latency(
    model: nn.Module,
    image: tuple[int, ...],
    channels: int,
    *,
    threads: int | None = None,
    device: str = "cpu",
    seconds: float = 0.5,
    batch: int = 1,
) -> Latency:
    """Measure the latency of a model in torch, in eval mode.

    It is that of `batch` images of (height, width), or clips of (frames, height, width). On an
    accelerator each run is waited for.
    """
    images = torch.randn(batch, channels, *image, device=device)
    model = model.to(device)
    training = model.training
    model.eval()

    def call() -> None:
        model(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        elif images.device.type == "mps":
            torch.mps.synchronize()

    try:
        with threads_set(threads), torch.inference_mode():
            return alternate([call], seconds=seconds)[0]
    finally:
        model.train(training)


def onnx_latency(
    path: Path | str,
    *,
    threads: int | None = None,
    seconds: float = 1.0,
    image: tuple[int, int] | None = None,
) -> Latency:
    """Measure an exported file in ONNX Runtime on the CPU, for one random input.

    It is a uint8 image (1, H, W, C), `image` giving (H, W) where the file leaves them open, or what
    else the file takes.
    """
    import numpy as np

    running = session(Path(path), threads=threads)
    entry = running.get_inputs()[0]
    height, width = image or (224, 224)
    fallback = (1, height, width, 3)
    shape = [
        1 if i == 0 else side if isinstance(side, int) else fallback[i]
        for i, side in enumerate(entry.shape)
    ]
    random = np.random.default_rng(0)
    if entry.type == "tensor(float)":
        pixels = random.standard_normal(shape, dtype=np.float32)
    else:
        pixels = random.integers(0, 256, shape, dtype=np.uint8)
    return alternate([lambda: running.run(None, {entry.name: pixels})], seconds=seconds)[0]


def remembered(key: dict[str, Any], measure: Callable[[], Latency]) -> Latency:
    """Return a latency measured on this machine with this torch in the last week, or measure it.

    `key` says what is measured (configuration, image, threads, device); the processor, its
    cores and the versions are added. One small file per key in $VITRAIL_CACHE/latency (by
    default ~/.cache/vitrail/latency), with a digest, written whole or not at all. A damaged one is
    measured again; where none can be kept, a warning says so.
    """
    full = {**key, "cpu": processor(), "cores": cores(), "versions": versions()}
    text = json.dumps(full, sort_keys=True)
    root = Path(os.environ.get("VITRAIL_CACHE") or "~/.cache/vitrail").expanduser()
    file = root / "latency" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    known = _kept(file)
    if known is not None:
        return known
    found = measure()
    figures = json.dumps(asdict(found))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write(file, f"{figures}\n{_digest(file, figures)}\n")
    except OSError as error:
        warnings.warn(
            f"{file.parent} cannot be written ({files.reason(error)}): set VITRAIL_CACHE to "
            "another folder, and what was measured is kept",
            stacklevel=2,
        )
    return found


def _kept(file: Path) -> Latency | None:
    """Return the latency in a file, None where there is none, an old
    one, or one that was changed.
    """
    try:
        if time.time() - file.stat().st_mtime > KEPT_S:
            return None
        figures, told = file.read_text().splitlines()
    except (OSError, ValueError):
        return None
    return Latency(**json.loads(figures)) if told == _digest(file, figures) else None


def _digest(file: Path, figures: str) -> str:
    return hashlib.sha256(f"{file.name} {figures}".encode()).hexdigest()


def _repeat(call: Callable[[], Any], seconds: float, least: int) -> None:
    stop = time.perf_counter() + seconds
    while least > 0 or time.perf_counter() < stop:
        call()
        least -= 1
