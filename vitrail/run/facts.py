"""From what a fit did to the plain values that the report tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vitrail.config import read_json
from vitrail.data.gate import Inspection
from vitrail.data.source import Source
from vitrail.data.split import Split
from vitrail.engines.onnx import Exported
from vitrail.objectives import Distillation, Objectives
from vitrail.recipes.base import WEIGHTS
from vitrail.recipes.recipe import Recipe
from vitrail.report.chapter import Chapter
from vitrail.report.dial import DialFacts, PointFacts, turned_by
from vitrail.report.facts import (
    BrokenFile,
    CurvePoint,
    DataFacts,
    ExportFacts,
    FindingFacts,
    ModelFacts,
)
from vitrail.run.dial import Dial
from vitrail.run.subject import Subject
from vitrail.units import percent

CURVE_POINTS = 300


def data_facts(
    recipe: Recipe, inspection: Inspection, split: Split, notes: Sequence[FindingFacts] = ()
) -> DataFacts:
    """Return the images, the parts and what the gate found."""
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
        ]
        + list(notes),
        broken=[BrokenFile(b.key, b.reason) for b in inspection.broken],
        several=inspection.source.several,
        maps=inspection.source.masks is not None,
        boxes=inspection.source.boxes is not None,
        heard=_heard(inspection.source),
        takes=inspection.source.kind,
        images={"train": len(split.train), "validation": len(split.val), "test": len(split.test)},
        split=f"{stated}other parts drawn by content, stratified, seed {data.seed}{grouped}",
    )


def _heard(source: Source) -> str:
    """Say how sounds are heard; nothing of images."""
    hearing = source.hearing
    if hearing is None:
        return ""
    form = "waveforms" if source.kind == "waves" else f"{hearing.bands} bands"
    return f"{hearing.rate:,} Hz, {hearing.seconds:.2f} s, {form}"


def model_facts(one: Subject, recipe: Recipe) -> ModelFacts:
    """Return the model that won."""
    return ModelFacts(
        one.name, one.family, one.params, one.macs, one.image, one.channels,
        _started_from(one.pretrained), one.title, one.model,
        teacher_of(recipe.objective),
    )  # fmt: skip


def _started_from(pretrained: str | None) -> str | None:
    """Return the name of a file of weights, or that of its run."""
    if pretrained is None:
        return None
    path = Path(pretrained)
    return path.parent.name if path.name == WEIGHTS else path.name


def teacher_of(objective: Objectives) -> str | None:
    """Return in words who teaches, with its score where it is a run; None where nobody does."""
    if not isinstance(objective, Distillation):
        return None
    if objective.average:
        return "its own average"
    result = Path(objective.teacher, "result.json")
    if not result.is_file():
        return objective.teacher
    found = read_json(result, dict, remedy="restore the teacher's folder, or take another")
    test, model = found.get("test"), found.get("model")
    if not isinstance(test, dict) or not isinstance(model, dict):
        return objective.teacher
    share = test.get(str(test.get("name", "accuracy")).replace(" ", "_"))
    right = f", {percent(share)} on its own test images" if isinstance(share, float) else ""
    return f"{objective.teacher} ({model.get('title') or model.get('name')}{right})"


def export_facts(exported: Exported) -> ExportFacts:
    """Return how the exported file compares with the model."""
    return ExportFacts(
        exported.n,
        exported.max_logit_difference,
        exported.size_bytes,
        exported.resize_inside,
    )


def curve_points(lines: Sequence[Mapping[str, Any]]) -> list[CurvePoint]:
    """Return the journal as curves: all looks at the validation part, and some 300 losses."""
    pace = max(1, len(lines) // CURVE_POINTS)
    # A look at the validation part need not fall on a step whose loss was written.
    known = [line["epoch"] / line["step"] for line in lines if line.get("epoch") and line["step"]]
    per_step = known[-1] if known else 0.0
    return [
        CurvePoint(
            step=line["step"],
            epoch=line.get("epoch", per_step * line["step"]),
            train_loss=line.get("loss"),
            val_score=_score(line),
            val_loss=line.get("val_loss"),
            lr=line.get("lr"),
        )
        for number, line in enumerate(lines)
        if number % pace == 0 or _score(line) is not None or number == len(lines) - 1
    ]


def _score(line: Mapping[str, Any]) -> float | None:
    """Return the main score of a look at the validation part, which
    older journals call accuracy.
    """
    return line.get("val_score", line.get("val_accuracy"))


def dial_chapter(dial: Dial | None, limit_s: float | None) -> Chapter | None:
    """Return what a dial was measured to do, if there is one."""
    if dial is None:
        return None
    front = {point.name for point in dial.front}
    points = [
        PointFacts(
            one.name, one.macs, one.score, one.low, one.high,
            one.p50_s, one.p90_s, one.name in front, one.name == dial.chosen,
        )
        for one in dial.points
    ]  # fmt: skip
    return turned_by(DialFacts(dial.measure, dial.images, dial.size, dial.threads, points, limit_s))


def today() -> str:
    """Return the date in UTC: 2025-01-31."""
    return datetime.now(UTC).date().isoformat()
