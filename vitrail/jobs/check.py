"""`vitrail check`: the data gate alone, for any task, before any time is spent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.config import kind_of
from vitrail.data.gate import Inspection, inspect
from vitrail.data.lidar.folder import ScanSource
from vitrail.data.lidar.gate import Inspected, inspect_scans
from vitrail.data.lidar.split import divide_scans
from vitrail.data.opening import task_of_data
from vitrail.data.source import Finding
from vitrail.data.split import Duplicates, Split, check_rules, divide
from vitrail.data.told import told
from vitrail.recipes.recipe import task_of
from vitrail.tasks import Tasks
from vitrail.units import counted, shortened

# What is learned, where the name of a task does not say it.
_LEARNED = {
    "multi_label": "several labels",
    "video": "classes of clips",
    "audio": "classes of sounds",
    "image_text": "images and sentences",
    "open_vocabulary": "boxes of what words ask for",
    "multi_modal": "clips, sounds and sentences",
}


@dataclass(frozen=True)
class Rules:
    """How images would be divided: as `vitrail fit` takes them."""

    group_by: str | None = None
    duplicates: Duplicates = "group"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rules(self.group_by, None, None, self.duplicates)


@dataclass(frozen=True, eq=False)
class Checked:
    """What the gate found in data that can be learned from, and how it would be divided."""

    task: Tasks
    inspection: Inspection = field(repr=False)
    split: Split = field(repr=False)
    seconds: float

    def lines(self) -> list[str]:
        """Return what was found, a line each: the images of each class, then all findings."""
        parts = self.split
        sizes = f"{len(parts.train):,}, {len(parts.val):,} and {len(parts.test):,}"
        return [
            *told(self.inspection, parts.findings, most=None),
            f"to learn {_spoken(self.task)} from: training, validation and test part would "
            f"have {sizes} {self.inspection.source.nouns}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        parts = self.split
        return {
            "task": kind_of(type(self.task)),
            **self.inspection.to_json(),
            "parts": {
                "train": len(parts.train), "validation": len(parts.val), "test": len(parts.test),
            },
            "split_findings": [
                {"kind": f.kind, "severity": f.severity, "message": f.message}
                for f in parts.findings
            ],
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class CheckedScans:
    """What the gate found in scans of lidar, and how they would be divided."""

    inspection: Inspected = field(repr=False)
    split: Split = field(repr=False)
    seconds: float

    def lines(self) -> list[str]:
        """Return what was found, a line each: the points of each class, then all findings."""
        told = [f"{f.severity}: {f.message}" for f in self._findings()]
        points = ", ".join(f"{shortened(name, 40)} {n:,}" for name, n in self._points().items())
        parts = self.split
        sizes = f"{len(parts.train):,}, {len(parts.val):,} and {len(parts.test):,}"
        return [
            f"{counted(len(self.inspection), 'scan')} with points of {points}", *told,
            "to learn lidar from: training, validation and test part would have " + sizes
            + " scans",
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        parts = self.split
        return {
            "task": "lidar",
            "scans": len(self.inspection),
            "classes": self._points(),
            "broken": [entry._asdict() for entry in self.inspection.broken],
            "parts": {
                "train": len(parts.train), "validation": len(parts.val), "test": len(parts.test),
            },
            "findings": [
                {"kind": f.kind, "severity": f.severity, "message": f.message}
                for f in self._findings()
            ],
        }  # fmt: skip

    def _findings(self) -> tuple[Finding, ...]:
        return (*self.inspection.findings, *self.split.findings)

    def _points(self) -> dict[str, int]:
        found = self.inspection
        return dict(zip(found.source.classes, found.counts.sum(0).tolist(), strict=True))


def _spoken(task: Tasks) -> str:
    """Return what a task learns, in words."""
    kind = kind_of(type(task))
    return _LEARNED.get(kind, kind)


def check(
    data: str | Path, task: str | None = None, rules: Rules | None = None, *, progress: bool = False
) -> Checked | CheckedScans:
    """Read all images of `data`, and what is true of them, and say what is wrong with it.

    `task` is told by the data where that is certain, else classification. Nothing is written and
    nothing is learned. Raises DataError where a fit would, and ConfigError.

    Examples:
        >>> from vitrail.jobs.check import check
        >>> len(check("photos").inspection) > 0
        True
    """
    began, rules = time.monotonic(), rules or Rules()
    name = task or task_of_data(data)
    chosen = task_of({"task": {"kind": name}} if name else {})
    source = chosen.source(data, progress=progress)
    chosen.check(source)
    if isinstance(source, ScanSource):
        scans = inspect_scans(source, progress=progress)
        parts = divide_scans(scans, seed=rules.seed)
        return CheckedScans(scans, parts, time.monotonic() - began)
    found = inspect(source, progress=progress)
    split = divide(
        found, group_by=rules.group_by, duplicates=rules.duplicates, seed=rules.seed
    )  # fmt: skip
    return Checked(chosen, found, split, time.monotonic() - began)
