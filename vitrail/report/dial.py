"""The chapter of a dial: what one set of weights reaches at each of its costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.report import canvas
from vitrail.report.chapter import Chapter, Column, Figure, Paragraph, Part, Table, strong
from vitrail.units import count, counted, percent, seconds


@dataclass(frozen=True)
class PointFacts:
    """A setting of a dial: multiply-adds, score with its 95 % interval, and the median and 90th
    percentile of its time.

    `front` says that no other setting beats it in both, `chosen` that the run stands at it.
    """

    name: str
    macs: int
    score: float
    low: float
    high: float
    p50_s: float
    p90_s: float
    front: bool
    chosen: bool


@dataclass(frozen=True)
class DialFacts:
    """A measured dial: `measure` is the name of its scores, on so many validation `images`; times
    are for pictures of `size` (height, width) on so many threads."""

    measure: str
    images: int
    size: tuple[int, int]
    threads: int
    points: Sequence[PointFacts]
    limit_s: float | None = None

    @property
    def ordered(self) -> list[PointFacts]:
        """Return the settings, the fastest first."""
        return sorted(self.points, key=lambda point: point.p50_s)

    @property
    def chosen(self) -> PointFacts:
        """Return the setting at which the run stands."""
        return next(point for point in self.points if point.chosen)


def turned_by(facts: DialFacts) -> Chapter:
    """Return the chapter: the curve with intervals, the choice in words, and the table."""
    label = f"validation {facts.measure} over latency at each setting of the dial"
    drawn = [curve(facts, size, name) for size, name in (
        (canvas.WIDE, "dial"), (canvas.NARROW, "dial-narrow"),
    )]  # fmt: skip
    parts: list[Part] = [
        Paragraph(_choice(facts)),
        Figure(drawn[0], label, drawn[1], _caption(facts)),
        _table(facts),
        Paragraph(
            "`vitrail predict RUN --latency 5ms` answers at the best setting under a limit, "
            "`--dial 0.4` at a place between the fastest (0) and the most accurate (1). "
            "`vitrail export RUN --dial` writes a file for each; they share their weights.",
            soft=True,
        ),
    ]
    return Chapter("One set of weights, many costs", parts)


def _choice(facts: DialFacts) -> str:
    """Say which setting was chosen and why."""
    one, limit = facts.chosen, facts.limit_s
    n = counted(len(facts.points), "setting")
    reached = f"{facts.measure} {percent(one.score)} in {seconds(one.p50_s)}"
    if limit is None:
        why = f"the best of {n} on the validation images"
    elif one.p50_s <= limit:
        why = f"the best of {n} that keeps {seconds(limit)}"
    else:
        why = f"the fastest of {n}, as none keeps {seconds(limit)}"
    return strong(one.name) + f" was chosen, {why}: {reached}."


def _caption(facts: DialFacts) -> str:
    height, width = facts.size
    return (
        f"Up is better, left is faster. Bars are 95\u00a0% intervals of {facts.measure} on "
        f"{counted(facts.images, 'validation image')}, by which the setting was chosen as well: "
        "only the figure of the test images, at the top of the page, is unbiased. They are the "
        "same images at every setting, so differences are surer than the bars show. A line joins "
        "the settings that no other beats in both, a ring marks the chosen one; numbers are those "
        "of the table. Times are medians "
        f"of the exported file for a picture of {width}x{height}, on "
        f"{counted(facts.threads, 'thread')}, all settings in turns."
    )


def _table(facts: DialFacts) -> Table:
    columns = [
        Column("", "number"), Column("setting"), Column("multiply-adds", "number"),
        Column(facts.measure, "number"), Column("95\u00a0% interval", "number"),
        Column("latency", "number"), Column("90\u00a0% below", "number"), Column(""),
    ]  # fmt: skip
    rows = []
    for number, one in enumerate(facts.ordered, 1):
        cells = (
            str(number), one.name.replace("-", "\u2011"), count(one.macs), percent(one.score),
            f"{percent(one.low)} to {percent(one.high)}", seconds(one.p50_s), seconds(one.p90_s),
            "chosen" if one.chosen else "" if one.front else "beaten",
        )  # fmt: skip
        rows.append([cell.replace(" ", "\u00a0") for cell in cells])
    return Table(columns, rows)


def curve(facts: DialFacts, size: tuple[float, float], name: str) -> str:
    """Draw scores with their intervals over time; the front is joined, numbers are the table's."""

    def draw(axes: Any) -> None:
        for number, point in enumerate(facts.ordered, 1):
            _mark(axes, number, point)
        front = [point for point in facts.ordered if point.front]
        axes.plot(
            [1e3 * p.p50_s for p in front], [100 * p.score for p in front], color=canvas.ACCENT,
            linewidth=1.2, alpha=0.7, zorder=2,
        )  # fmt: skip
        limit = [] if facts.limit_s is None else [1e3 * facts.limit_s]
        canvas.log_ticks(axes, [1e3 * p.p50_s for p in facts.points] + limit)
        axes.margins(y=0.14)
        canvas.within(axes)
        for ms in limit:
            axes.axvline(ms, color=canvas.SECOND, linewidth=1.1, linestyle=(0, (4, 3)))
            axes.annotate(
                "budget", (ms, 0), (-4, 4), xycoords=("data", "axes fraction"),
                textcoords="offset points", color=canvas.SECOND, ha="right", in_layout=False,
            )  # fmt: skip
        axes.set_xlabel("latency in ms, logarithmic")
        axes.set_ylabel(f"validation {facts.measure}, %")

    return canvas.svg(draw, name, size)


def _mark(axes: Any, number: int, point: PointFacts) -> None:
    """Draw a setting: its score, the interval, its number, and a ring where it was chosen."""
    at, score = 1e3 * point.p50_s, 100 * point.score
    colour = canvas.ACCENT if point.front else canvas.SOFT
    axes.errorbar(
        [at], [score], yerr=[[score - 100 * point.low], [100 * point.high - score]], fmt="o",
        color=colour, markersize=6, elinewidth=1.3, capsize=3, zorder=3,
    )  # fmt: skip
    if point.chosen:
        axes.scatter(
            [at], [score], s=170, facecolors="none", edgecolors=canvas.ACCENT, linewidths=1.8,
            zorder=4,
        )  # fmt: skip
    axes.annotate(
        str(number), (at, score), (10, -11), textcoords="offset points", ha="center",
        color=canvas.ACCENT if point.chosen else canvas.SOFT, fontsize=canvas.FONT - 1,
        fontweight="bold" if point.chosen else "normal", in_layout=False,
    )  # fmt: skip
