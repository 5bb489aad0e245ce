"""The page of a run of lidar scans: how good it is beside what trivial answers reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.report import plots
from vitrail.report.chapter import Chapter, Column, Figure, Pair, Table
from vitrail.report.facts import BrokenFile, CurvePoint, FindingFacts
from vitrail.report.page import filled
from vitrail.report.scores import Baseline, Score
from vitrail.units import percent, points

TEMPLATE = Path(__file__).parent / "scans.html.jinja"


@dataclass(frozen=True)
class ScanFacts:
    """A finished run of scans.

    `parts` are the scans to learn from, to choose by and held back; `scan_s` what a whole scan
    takes as exported; `compared` how many held-back scans the export was compared on, and the
    largest difference of a score; `projection` says how range images are made.
    """

    title: str
    data: str
    origin: str
    parts: tuple[int, int, int]
    test: Score
    chapters: Sequence[Chapter]
    baselines: Sequence[Baseline]
    params: int
    macs: int
    crop: tuple[int, int]
    projection: str
    scan_s: float
    compared: tuple[int, float]
    steps: int
    batch: int
    curves: Sequence[CurvePoint]
    findings: Sequence[FindingFacts]
    broken: Sequence[BrokenFile]
    command: str
    machine: Mapping[str, Any]
    seconds: Mapping[str, float]
    date: str
    run: str


def render(facts: ScanFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    return filled(
        TEMPLATE, facts=facts, verdict=verdict(facts),
        chapters=[*facts.chapters, *_of_training(facts), *_beside(facts)],
    )  # fmt: skip


def verdict(facts: ScanFacts) -> str:
    """Return whether the network is ahead of the better of the trivial answers."""
    if not facts.baselines:
        return ""
    best = max(facts.baselines, key=lambda one: one.accuracy)
    reaches = f"{best.name!r} reaches {percent(best.accuracy)} on the same scans"
    if best.ahead is None:
        return f"{reaches}."
    low, high = points(best.ahead.low), points(best.ahead.high)
    if best.ahead.low > 0:
        return f"{reaches}; the network is {low} to {high} ahead (95 % interval)."
    return f"{reaches}; the network is no better than that beyond noise ({low} to {high})."


def _beside(facts: ScanFacts) -> list[Chapter]:
    if not facts.baselines:
        return []
    columns = [Column("answer"), Column(facts.test.name, "number"), Column("", "bar")]
    rows = [("this network", percent(facts.test.accuracy), facts.test.accuracy)]
    rows += [(one.name, percent(one.accuracy), one.accuracy) for one in facts.baselines]
    return [Chapter("Beside trivial answers", [Table(columns, rows)])]


def _of_training(facts: ScanFacts) -> list[Chapter]:
    if len(facts.curves) < 2:
        return []
    losses = Figure(plots.losses(facts.curves, "sum of losses"), "loss by step")
    rise = Figure(plots.rise(facts.curves, facts.test.name), f"{facts.test.name} by step")
    return [Chapter("How it learned", [Pair([losses], [rise])])]
