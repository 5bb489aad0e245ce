"""The page of `vitrail scale`: points, frontier, laws and the shape that they ask for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.report import canvas
from vitrail.report.chapter import Chapter, Column, Figure, Paragraph, Table
from vitrail.report.page import filled
from vitrail.units import counted, percent

TEMPLATE = Path(__file__).parent / "scaling.html.jinja"
NAMES = {"dim": "width", "depth": "depth", "hidden": "hidden width"}


@dataclass(frozen=True)
class ScalingFacts:
    """A finished sweep: `points` are sizes, compute and error, `front` rows of the frontier.

    `law` and `shapes` are fits with `error`, `growth` and `intervals`, as far as there are any;
    `predicted` has "times", "from", "shape", "error" and "compute", and `proof` what came of
    training that shape, as in `points`.
    """

    data: str
    images: int
    points: Sequence[tuple[Mapping[str, int], float, float]]
    front: Sequence[int]
    law: Any
    shapes: Mapping[str, Any]
    predicted: Mapping[str, Any] | None
    command: str
    proof: tuple[Mapping[str, int], float, float] | None = None


def answer(facts: ScalingFacts) -> str:
    """Return the outcome in a sentence or two."""
    if facts.law is None:
        return (
            f"{counted(len(facts.front), 'point')} on the frontier are too few for a law: give "
            "more --time or more --sizes."
        )
    low, high = facts.law.intervals["b"]
    said = (
        f"The error falls with compute to the power {facts.law.b:.2f} (95 % interval {low:.2f} to "
        f"{high:.2f}), towards {percent(facts.law.c)}."
    )
    if facts.predicted is not None:
        shape = ", ".join(f"{NAMES[n]} {size}" for n, size in facts.predicted["shape"].items())
        said += f" For {facts.predicted['times']:g} times as much compute it asks for {shape}."
        if facts.proof is not None and facts.predicted["error"] is not None:
            said += (
                f" Trained, that has an error of {percent(facts.proof[2])} where the law says "
                f"{percent(facts.predicted['error'])}."
            )
    return said


def render_scaling(facts: ScalingFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    wide, narrow = (
        canvas.svg(lambda axes: _draw(axes, facts), f"scaling-{name}", size)
        for name, size in (("wide", canvas.WIDE), ("narrow", canvas.NARROW))
    )
    drawn = Figure(
        wide, "error over compute", narrow=narrow,
        caption="Each dot is a model at the end of a cool-down; the line is the law of the "
        "frontier, whose points are ringed; a diamond is the shape that the laws ask for, trained.",
    )  # fmt: skip
    chapters = [Chapter("Error over compute", [drawn])]
    if facts.shapes:
        rows = [
            (NAMES[name], f"{shape.growth:.2f}", "{:.2f} to {:.2f}".format(
                *shape.intervals["growth"]))
            for name, shape in facts.shapes.items()
        ]  # fmt: skip
        columns = [Column("size"), Column("power", "number"), Column("95 % interval", "number")]
        told = "By which power of compute the best size grows, the others being large enough."
        chapters.append(Chapter("Shape", [Paragraph(told, soft=True), Table(columns, rows)]))
    return filled(TEMPLATE, facts=facts, answer=answer(facts), chapters=chapters)


def _draw(axes: Any, facts: ScalingFacts) -> None:
    colours = itertools.cycle(canvas.SERIES)
    shapes: dict[str, list[tuple[float, float]]] = {}
    for sizes, compute, error in facts.points:
        shapes.setdefault(" ".join(map(str, sizes.values())), []).append((compute, 100 * error))
    for points in shapes.values():
        axes.plot(
            *zip(*points, strict=True), color=next(colours), linewidth=0.8, alpha=0.7, marker="o",
            markersize=3.5,
        )  # fmt: skip
    ringed = [(facts.points[row][1], 100 * facts.points[row][2]) for row in facts.front]
    axes.scatter(*zip(*ringed, strict=True), s=60, facecolors="none", edgecolors=canvas.INK)
    xs = [compute for _, compute, _ in facts.points]
    if facts.law is not None:
        at = np.geomspace(min(xs), 4 * max(xs), 60)
        axes.plot(at, 100 * facts.law.error(at), color=canvas.ACCENT, linewidth=1.8)
    if facts.proof is not None:
        _, compute, error = facts.proof
        axes.plot([compute], [100 * error], "D", color=canvas.ACCENT, markersize=8)
        xs.append(compute)
    canvas.log_ticks(axes, [100 * error for _, _, error in facts.points], vertical=True)
    axes.set_xscale("log")
    axes.set_xlabel("multiply-adds of the training, logarithmic")
    axes.set_ylabel("validation error, %")
