"""`vitrail check`: the data gate alone, for any task, before any time is spent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.config import kind_of
from vitrail.data.gate import Inspection, inspect
from vitrail.data.opening import task_of_data
from vitrail.data.split import Duplicates, Split, divide
from vitrail.data.told import told
from vitrail.recipes.recipe import task_of
from vitrail.tasks import Tasks


@dataclass(frozen=True)
class Rules:
    """How images would be divided: as `vitrail fit` takes them."""

    group_by: str | None = None
    duplicates: Duplicates = "group"
    seed: int = 0


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
            *told(self.inspection, parts.findings, most=1000),
            f"to learn {kind_of(type(self.task))} from: training, validation and test part would "
            f"have {sizes} images",
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


def check(
    data: str | Path, task: str | None = None, rules: Rules | None = None, *, progress: bool = False
) -> Checked:
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
    found = inspect(source, progress=progress)
    split = divide(
        found, group_by=rules.group_by, duplicates=rules.duplicates, seed=rules.seed
    )  # fmt: skip
    return Checked(chosen, found, split, time.monotonic() - began)
