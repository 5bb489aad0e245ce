"""From what a fit did to the plain values that the report tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from vitrail.data.gate import Inspection
from vitrail.data.split import Split
from vitrail.recipes.recipe import Recipe
from vitrail.report.facts import (
    BrokenFile,
    CalibrationBin,
    CalibrationFacts,
    CandidatePoint,
    ClassRow,
    CurvePoint,
    DataFacts,
    FindingFacts,
    Score,
)
from vitrail.search.candidate import Candidate
from vitrail.search.rungs import Runner
from vitrail.train import metrics

CURVE_POINTS = 300


def score(logits: Tensor, labels: Tensor) -> Score:
    """Test accuracy with its interval, and what else is said in one number."""
    right = metrics.accuracy(logits, labels)
    return Score(
        accuracy=right.value,
        low=right.low,
        high=right.high,
        n=right.n,
        balanced=metrics.balanced_accuracy(logits, labels),
        top5=metrics.accuracy(logits, labels, top=5).value if logits.shape[1] > 5 else None,
        loss=metrics.cross_entropy(logits, labels),
    )


def class_rows(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> list[ClassRow]:
    """Precision, recall and F1 of each class on the test part."""
    rows = metrics.per_class(logits, labels)
    return [
        ClassRow(name, row.n, row.precision, row.recall, row.f1)
        for name, row in zip(classes, rows, strict=True)
    ]


def confusion(logits: Tensor, labels: Tensor) -> list[list[int]]:
    """A row per true class, a column per predicted one."""
    return metrics.confusion(logits, labels).tolist()


def calibration(logits: Tensor, labels: Tensor, temperature: float) -> CalibrationFacts:
    """How honest the probabilities are on the test part, with and without the temperature."""
    before = metrics.calibration(logits, labels)
    after = metrics.calibration(logits, labels, temperature)
    return CalibrationFacts(temperature, before.error, after.error, _bins(after), _bins(before))


def _bins(found: metrics.Calibration) -> list[CalibrationBin]:
    return [CalibrationBin(b.low, b.high, b.n, b.confidence, b.accuracy) for b in found.bins]


def data_facts(recipe: Recipe, inspection: Inspection, split: Split) -> DataFacts:
    """The images, the parts and what the gate found."""
    given = {item.part for item in inspection.items} - {None}
    stated = f"given: {', '.join(sorted(map(str, given)))}; " if given else ""
    data = recipe.data
    grouped = f", groups of {data.group_by!r} kept together" if data.group_by else ""
    return DataFacts(
        name=inspection.source.name,
        origin=inspection.source.origin,
        classes=split.classes,
        parts={
            "train": split.train.counts,
            "validation": split.val.counts,
            "test": split.test.counts,
        },
        findings=[
            FindingFacts(f.kind, f.severity, f.message, f.keys)
            for f in [*inspection.findings, *split.findings]
        ],
        broken=[BrokenFile(b.key, b.reason) for b in inspection.broken],
        split=f"{stated}other parts drawn by content, stratified, seed {data.seed}{grouped}",
    )


def candidate_points(
    runners: Sequence[Runner],
    over: Sequence[Candidate],
    misses: Mapping[str, float],
    winner: Runner,
    *,
    latency_s: float,
    accuracy: float,
    steps: int,
) -> list[CandidatePoint]:
    """All candidates with what became of them; the winner with its final figures."""
    points = []
    for runner in runners:
        one, status = runner.candidate, "stopped"
        seen, trained, wait = runner.accuracy, runner.done, one.latency_s
        if one.name == winner.candidate.name:
            status, seen, trained, wait = "won", accuracy, steps, latency_s
        elif one.name in misses:
            status, wait = "over budget", misses[one.name]
        elif seen is None:
            status = "not tried"
        elif runner.rung == winner.rung:
            status = "finished"
        points.append(_point(one, wait, seen, trained, status))
    points += [_point(one, one.latency_s, None, 0, "over budget") for one in over]
    return points


def _point(
    one: Candidate, latency_s: float | None, accuracy: float | None, steps: int, status: str
) -> CandidatePoint:
    return CandidatePoint(
        one.name,
        one.family,
        one.params,
        one.macs,
        latency_s,
        accuracy,
        steps,
        status,
        one.image,
    )


def curve_points(lines: Sequence[Mapping[str, Any]]) -> list[CurvePoint]:
    """The journal as curves: all looks at the validation part, and some 300 losses."""
    pace = max(1, len(lines) // CURVE_POINTS)
    # A look at the validation part need not fall on a step whose loss was written.
    known = [line["epoch"] / line["step"] for line in lines if line.get("epoch") and line["step"]]
    per_step = known[-1] if known else 0.0
    return [
        CurvePoint(
            step=line["step"],
            epoch=line.get("epoch", per_step * line["step"]),
            train_loss=line.get("loss"),
            val_accuracy=line.get("val_accuracy"),
            val_loss=line.get("val_loss"),
            lr=line.get("lr"),
        )
        for number, line in enumerate(lines)
        if number % pace == 0 or "val_accuracy" in line or number == len(lines) - 1
    ]


def today() -> str:
    """The date in UTC: 2025-01-31."""
    return datetime.now(UTC).date().isoformat()
