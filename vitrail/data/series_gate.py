"""What the data gate knows of time series: which cannot be used, and what is odd about the rest."""

from __future__ import annotations

import hashlib

import numpy as np

from vitrail.data.names import few
from vitrail.data.source import Finding, Source
from vitrail.data.tally import KEYS_SHOWN, Broken, Scan, words
from vitrail.data.uea import Series
from vitrail.units import counted, percent

# From this share on of missing numbers in a feature it is a warning.
MUCH = 0.2
# A series that many deviations of all numbers away from their mean is told.
FAR = 30.0
# Steps that leave a network nothing to read.
SHORT = 2


def scan_series(source: Source, series: Series) -> Scan:
    """Return what a pass over the series sees; copies are those of equal numbers."""
    there = series.mask[..., None] & ~np.isnan(series.values)
    kept, broken = [], []
    for row in range(len(series)):
        fault = _fault(there[row], int(series.mask[row].sum()))
        if fault is None:
            kept.append(row)
        else:
            broken.append(Broken(source.items[row].key, *fault))
    rows = np.array(kept, np.int64)
    steps = series.mask[rows].sum(1) if kept else np.zeros(0, np.int64)
    digests = bytearray().join(_digest(series, row) for row in kept)
    found = words(digests)
    _, groups = np.unique(found, axis=0, return_inverse=True)
    return Scan(
        rows, found, np.stack([steps, np.ones_like(steps)], 1).astype(np.int32),
        np.zeros(len(rows), np.int8), ("series",), np.zeros((len(rows), 0), np.uint8), False,
        broken, _traits(source, series, there, rows), groups=groups.reshape(-1).astype(np.int64),
    )  # fmt: skip


def series_findings(series: Series, scan: Scan) -> tuple[Finding, ...]:
    """Return what there is to say of lengths and of each feature of the series in a scan."""
    values, mask = series.values[scan.rows], series.mask[scan.rows]
    there = mask[..., None] & ~np.isnan(values)
    steps = mask.sum(1)
    findings = []
    if len(steps) and steps.min() < steps.max():
        text = f"series have {steps.min()} to {steps.max()} steps: shorter ones are padded"
        findings.append(Finding("lengths", "info", text))
    told = there.sum((0, 1))
    absent = [_named(series, at) for at in np.flatnonzero(told == 0)]
    if absent:
        text = f"{counted(len(absent), 'feature')} without any number: {few(absent)}"
        findings.append(Finding("absent feature", "warning", text, tuple(absent)))
    least = np.where(there, values, np.inf).min((0, 1))
    most = np.where(there, values, -np.inf).max((0, 1))
    still = [_named(series, at) for at in np.flatnonzero((told > 0) & (least == most))]
    if still:
        text = f"{counted(len(still), 'feature')} that never change: {few(still)}"
        findings.append(Finding("constant feature", "warning", text, tuple(still)))
    lacking = 1 - told / max(1, int(mask.sum()))
    some = [f"{_named(series, at)} {percent(lacking[at])}" for at in np.flatnonzero(lacking > MUCH)]
    if some:
        text = f"{counted(len(some), 'feature')} with many missing numbers: {few(some)}"
        findings.append(Finding("missing numbers", "warning", text, tuple(some)))
    return tuple(findings)


def _named(series: Series, at: int | np.integer) -> str:
    return series.features[at] if series.features else f"feature {at + 1}"


def _fault(there: np.ndarray, steps: int) -> tuple[str, str] | None:
    """Return why a series cannot be used: the kind and the reason."""
    if not there.any():
        return "no numbers", "holds no number"
    if steps < SHORT:
        return "too short", f"has {counted(steps, 'step')}, and a series needs {SHORT} at least"
    return None


def _digest(series: Series, row: int) -> bytes:
    """Return the 16 bytes by which a series is known: its numbers,
    whatever the padding behind them.
    """
    own = np.ascontiguousarray(series.values[row, series.mask[row]].astype("<f4"))
    return hashlib.blake2b(own.tobytes(), digest_size=16, key=str(own.shape).encode()).digest()


def _traits(
    source: Source, series: Series, there: np.ndarray, rows: np.ndarray
) -> dict[str, tuple[int, list[str]]]:
    """Count the series that have each trait, and name the first of them."""
    numbers = np.where(there, series.values, np.nan)[rows]
    gaps = (series.mask[rows][..., None] & np.isnan(numbers)).any((1, 2))
    found = {"missing": gaps}
    if len(rows):
        middle = np.nanmedian(np.where(np.isnan(numbers).all((0, 1)), 0, numbers), axis=(0, 1))
        spread = np.nanmedian(
            np.where(np.isnan(numbers).all((0, 1)), 0, abs(numbers - middle)), axis=(0, 1)
        )
        far = abs(numbers - middle) > FAR * 1.4826 * np.where(spread > 0, spread, np.inf)
        found["far off"] = far.any((1, 2))
    return {
        trait: (
            int(has.sum()),
            [source.items[rows[at]].key for at in np.flatnonzero(has)][:KEYS_SHOWN],
        )
        for trait, has in found.items()
        if has.any()
    }
