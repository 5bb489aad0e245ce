"""What the user allows: latency of the exported model, multiply-adds, parameters, time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vitrail.errors import BudgetError

_LATENCY_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_DURATION_UNITS = {"h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}


@dataclass(frozen=True)
class Budget:
    """Limits that a model must keep; None is no limit.

    The latency is that of the exported file in `engine` on the CPU, batch 1, with `threads`
    threads; with "auto" in the fastest that is installed. `device` is where the training runs.
    """

    latency_s: float | None = None
    macs: int | None = None
    params: int | None = None
    threads: int = 1
    device: str = "auto"
    engine: str = "onnxruntime"

    def allows(self, *, params: int, macs: int, latency_s: float | None = None) -> bool:
        """Whether the given figures keep every limit; a latency not yet known keeps its own."""
        return (
            (self.params is None or params <= self.params)
            and (self.macs is None or macs <= self.macs)
            and (self.latency_s is None or latency_s is None or latency_s <= self.latency_s)
        )

    def excess(self, *, params: int, macs: int, latency_s: float | None = None) -> float:
        """How many times over the tightest limit the given figures are; up to 1 is allowed."""
        shares = [0.0]
        if self.params is not None:
            shares.append(params / self.params)
        if self.macs is not None:
            shares.append(macs / self.macs)
        if self.latency_s is not None and latency_s is not None:
            shares.append(latency_s / self.latency_s)
        return max(shares)

    def spoken(self) -> str:
        """The limits in words, such as "latency 20 ms, 50 M multiply-adds"."""
        limits = []
        if self.latency_s is not None:
            limits.append(f"latency {seconds(self.latency_s)} on {self.threads} threads")
        if self.macs is not None:
            limits.append(f"{count(self.macs)} multiply-adds")
        if self.params is not None:
            limits.append(f"{count(self.params)} parameters")
        return ", ".join(limits) or "no limit"


def parse_latency(text: str | float) -> float:
    """Seconds from `20ms`, `0.02s`, `1.5 s`, `800us`; a plain float is seconds already."""
    if isinstance(text, (int, float)):
        return _positive(float(text), str(text), "latency")
    read = re.fullmatch(r"\s*([0-9.]+(?:e-?\d+)?)\s*([a-zµ]*)\s*", text.lower())
    if read and not read[2] and _number(read[1]) is not None:
        raise BudgetError(f"latency {text.strip()!r} has no unit: write {read[1]}ms or {read[1]}s")
    value = _number(read[1]) if read else None
    if read is None or value is None or read[2] not in _LATENCY_UNITS:
        raise BudgetError(f"latency {text!r} is not a time: write it like 20ms or 0.02s")
    return _positive(value * _LATENCY_UNITS[read[2]], text, "latency")


def parse_count(text: str | int) -> int:
    """A whole number from `30M`, `1.3G`, `500k`, `2500000`."""
    if isinstance(text, int):
        return int(_positive(text, str(text), "count"))
    read = re.fullmatch(r"\s*([0-9._]+(?:e\d+)?)\s*([kmgb]?)\s*", text.lower())
    value = _number(read[1]) if read else None
    if read is None or value is None:
        raise BudgetError(f"count {text!r} is not a number: write it like 30M, 1.3G or 2500000")
    return int(_positive(round(value * _COUNT_UNITS[read[2]]), text, "count"))


def parse_duration(text: str | float) -> float:
    """Seconds from `10m`, `90s`, `1h30m`, `1.5h`; a plain float is seconds already."""
    if isinstance(text, (int, float)):
        return _positive(float(text), str(text), "time")
    compact = text.lower().replace(" ", "")
    if _number(compact) is not None:
        raise BudgetError(f"time {text.strip()!r} has no unit: write {compact}m or {compact}s")
    parts = re.findall(r"([0-9.]+)(h|min|m|s)", compact)
    values = [_number(number) for number, _ in parts]
    if not parts or "".join(n + u for n, u in parts) != compact or None in values:
        raise BudgetError(f"time {text!r} is not a duration: write it like 10m, 90s or 1h30m")
    total = sum(
        value * _DURATION_UNITS[unit]
        for value, (_, unit) in zip(values, parts, strict=True)
        if value is not None
    )
    return _positive(total, text, "time")


def seconds(value: float) -> str:
    """A time in the unit in which it reads best: 3.1 ms, 4.2 s, 12 min 5 s."""
    if value < 1:
        return f"{_three(value * 1000)} ms"
    if value < 100:
        return f"{_three(value)} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(value: float) -> str:
    """A count in thousands, millions or billions: 12.3 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{_three(value / size)}{unit}"
    return f"{value:.0f}"


def _three(value: float) -> str:
    """Three digits that count, and never an exponent for what is large."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _positive(value: float, text: str, what: str) -> float:
    if not 0 < value < float("inf"):
        raise BudgetError(f"{what} {text!r} must be above zero: give a positive value")
    return value
