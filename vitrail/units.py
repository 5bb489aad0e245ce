"""Quantities as people write and read them: 20ms, 30M, 10m; "4.21 ms", "1.24 M", "2 min 5 s".

The command line, errors, cards and reports all say a figure in the same words.
"""

from __future__ import annotations

import re

from vitrail.errors import BudgetError, ConfigError

_LATENCY_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_SIZE_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_DURATION_UNITS = {"h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}


def parse_latency(text: str | float) -> float:
    """Read `20ms`, `0.02s`, `1.5 s` or `800us` as seconds; a plain float is seconds already.

    Raises BudgetError.
    """
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
    """Read `30M`, `1.3G`, `500k` or `2500000` as a whole number. Raises BudgetError."""
    if isinstance(text, int):
        return int(_positive(text, str(text), "count"))
    read = re.fullmatch(r"\s*([0-9._]+(?:e\d+)?)\s*([kmgb]?)\s*", text.lower())
    value = _number(read[1]) if read else None
    if read is None or value is None:
        raise BudgetError(f"count {text!r} is not a number: write it like 30M, 1.3G or 2500000")
    return int(_positive(round(value * _COUNT_UNITS[read[2]]), text, "count"))


def parse_size(text: str, what: str) -> int:
    """Read `10GB`, `500 MB`, `1.5GiB` or `2000000` as bytes.

    Raises ConfigError, which names `what`.
    """
    read = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?b?)\s*", text.lower())
    value = _number(read[1]) if read else None
    if read is None or value is None or read[2] not in _SIZE_UNITS:
        raise ConfigError(f"{what} is {text!r}, which is not a size: write it like 10GB or 500MB")
    return int(value * _SIZE_UNITS[read[2]])


def parse_duration(text: str | float) -> float:
    """Read `10m`, `90s`, `1h30m` or `1.5h` as seconds; a plain float is seconds already.

    Raises BudgetError.
    """
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


def seconds(value: float | None) -> str:
    """Say a time with three figures and its unit: "4.21 ms", "1.3 s", "2 min 5 s", "12 min"."""
    if value is None:
        return "–"
    if value >= 7200:
        hours, minutes = divmod(round(value / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    if value >= 90:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{value / 60:.0f} min"
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{_three(value * factor)} {unit}"
    return f"{_three(value * 1e6)} µs"


def count(value: float | None) -> str:
    """Say a count with three figures: "1.24 M"; below a thousand the number itself."""
    if value is None:
        return "–"
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f}"


def size(value: int | None) -> str:
    """Say a number of bytes: "1.23 MB"."""
    if value is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if value >= factor:
            return f"{_three(value / factor)} {unit}"
    return f"{_three(value / 1e3)} kB"


def percent(value: float | None, digits: int = 1) -> str:
    """Say a share in [0, 1]: "91.2 %"."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """Say a difference of shares in percentage points, signed: "+0.42"."""
    return "–" if value is None else f"{100 * value:+.2f}".replace("-", "−")


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Say a number and its noun: "1 file", "2,000 files"."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def shortened(text: str, most: int = 120) -> str:
    """Cut a text of unknown length in its middle, so that a sentence stays one."""
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def _three(value: float) -> str:
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
