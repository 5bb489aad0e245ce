"""The page of `vitrail growth`: how time and memory grow with image, batch and depth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.report import canvas
from vitrail.report.page import filled
from vitrail.units import counted

TEMPLATE = Path(__file__).parent / "growth.html.jinja"
# Exponents are fitted to the largest points: at small ones the fixed cost of a call dominates.
FITTED = 3
# Above this exponent of the area a family is called more than linear.
LINEAR = 1.15
TOLD_APART = 0.15


@dataclass(frozen=True)
class Point:
    """Cost of one call at `x`: seconds, peak bytes beyond weights and image, multiply-adds."""

    x: int
    latency_s: float
    memory_bytes: int
    macs: int


@dataclass(frozen=True)
class Growth:
    """A variant's points by image side, batch and multiple of its depth.

    `note` says what was left out, and why.
    """

    variant: str
    family: str
    sides: Sequence[Point]
    batches: Sequence[Point]
    depths: Sequence[Point]
    note: str = ""

    @property
    def time(self) -> float | None:
        """Return the exponent of the area by which time grows: 1 is linear."""
        return exponent([(p.x**2, p.latency_s) for p in self.sides])

    @property
    def memory(self) -> float | None:
        """Return the exponent of the area by which memory grows."""
        return exponent([(p.x**2, p.memory_bytes) for p in self.sides])

    @property
    def macs(self) -> float | None:
        """Return the exponent of the area by which multiply-adds grow."""
        return exponent([(p.x**2, p.macs) for p in self.sides])

    @property
    def batch(self) -> float | None:
        """Return the exponent of the batch by which time grows."""
        return exponent([(p.x, p.latency_s) for p in self.batches])

    @property
    def depth(self) -> float | None:
        """Return the exponent of the depth by which time grows."""
        return exponent([(p.x, p.latency_s) for p in self.depths])

    @property
    def linear(self) -> bool:
        """Return whether neither multiply-adds nor memory grow faster than the area, time aside."""
        return max(self.macs or 0.0, self.memory or 0.0) <= LINEAR

    @property
    def why(self) -> str:
        """Explain growth beyond linear, or say that it is linear."""
        if self.time is None or self.macs is None:
            return "too few points"
        if self.macs > LINEAR:
            return (
                "some layer attends to all positions: the exponent of multiply-adds is "
                f"{self.macs:.2f}"
            )
        if self.memory is not None and self.memory > LINEAR:
            return (
                "some layer attends to all positions: through its logits the exponent of memory is "
                f"{self.memory:.2f}, that of multiply-adds only {self.macs:.2f} up to this size"
            )
        if self.time > LINEAR and self.time > self.macs + TOLD_APART:
            return "linear in multiply-adds; the larger maps no longer fit the caches"
        return "linear" if self.time <= LINEAR else "nearly linear"


@dataclass(frozen=True)
class GrowthFacts:
    """The growth of all families on one machine."""

    machine: Mapping[str, Any]
    threads: int
    rows: Sequence[Growth]


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope of log y over log x by least squares over the largest x.

    None where there are fewer than two points.
    """
    points = [(math.log(x), math.log(y)) for x, y in sorted(points)[-FITTED:] if y > 0]
    if len(points) < 2:
        return None
    mx, my = (sum(axis) / len(points) for axis in zip(*points, strict=True))
    across = sum((x - mx) ** 2 for x, _ in points)
    return sum((x - mx) * (y - my) for x, y in points) / across


def answer(facts: GrowthFacts) -> str:
    """Return the outcome in one sentence."""
    known = [row for row in facts.rows if row.time is not None]
    more = sorted((row for row in known if not row.linear), key=lambda row: -(row.time or 0))
    linear = len(known) - len(more)
    text = f"{linear} of {counted(len(known), 'family', 'families')} "
    text += f"{'is' if linear == 1 else 'are'} linear in the area"
    if not more:
        return f"{text}."
    named = ", ".join(f"{row.family} ({row.time:.2f})" for row in more[:6])
    return f"{text}; the steepest of the others by time: {named}."


def curves(rows: Sequence[Growth], what: str, size: tuple[float, float], name: str) -> str:
    """Draw time or memory over the side of the image, a line for each family, both logarithmic."""
    key = {"time": lambda p: 1e3 * p.latency_s, "memory": lambda p: p.memory_bytes / 1e6}[what]
    unit = {"time": "ms", "memory": "MB"}[what]

    def draw(axes: Any) -> None:
        colours = itertools.cycle(canvas.SERIES)
        for row in rows:
            xs, ys = [p.x for p in row.sides], [key(p) for p in row.sides]
            colour = next(colours)
            axes.plot(xs, ys, color=colour, linewidth=1.1, alpha=0.8, marker="o", markersize=2.5)
        steepest = sorted(rows, key=lambda r: -(getattr(r, what) or 0))[:5]
        for row in steepest:
            if row.sides:
                at = (row.sides[-1].x, key(row.sides[-1]))
                axes.annotate(
                    row.family, at, (-4, 4), textcoords="offset points", ha="right",
                    fontsize=canvas.FONT - 1.5, color=canvas.INK,
                )  # fmt: skip
        canvas.log_ticks(
            axes, [key(p) for row in rows for p in row.sides if key(p) > 0], vertical=True
        )
        canvas.log_ticks(axes, [p.x for row in rows for p in row.sides])
        axes.set_xticks(sorted({p.x for row in rows for p in row.sides}))
        axes.set_xlabel("side of the image in pixels, logarithmic")
        axes.set_ylabel(f"{unit} per image, logarithmic")

    return canvas.svg(draw, name, size) if any(row.sides for row in rows) else ""


HEAD = (
    "family", "variant", "time, area", "memory, area", "operations, area", "time, batch",
    "time, depth", "why",
)  # fmt: skip


def cells(row: Growth) -> tuple[str, ...]:
    """Return the cells of a row, in the order of HEAD."""
    found = (row.time, row.memory, row.macs, row.batch, row.depth)
    shown = ("–" if e is None else f"{e:.2f}" for e in found)
    return (row.family, row.variant, *shown, row.why)


def render_growth(facts: GrowthFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    drawn = {}
    for what in ("time", "memory"):
        drawn[what] = curves(facts.rows, what, canvas.WIDE, what)
        drawn[f"{what}_narrow"] = curves(facts.rows, what, canvas.NARROW, f"{what}-narrow")
    ordered = sorted(facts.rows, key=lambda row: -(row.time or 0))
    return filled(
        TEMPLATE,
        facts=facts,
        answer=answer(facts),
        head=HEAD,
        rows=map(cells, ordered),
        plots=drawn,
    )


def markdown(facts: GrowthFacts) -> str:
    """Return the table as Markdown."""
    lines = [answer(facts), ""]
    lines += [f"| {' | '.join(HEAD)} |", f"| --- | --- {'| --: ' * (len(HEAD) - 3)}| --- |"]
    ordered = sorted(facts.rows, key=lambda row: -(row.time or 0))
    lines += [f"| {' | '.join(cells(row))} |" for row in ordered]
    notes = [f"- {row.variant}: {row.note}" for row in ordered if row.note]
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"
