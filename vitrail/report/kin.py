"""The front of runs that were made smaller out of one another, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.report import canvas
from vitrail.report.chapter import Chapter, Column, Figure, Paragraph, Table
from vitrail.report.compression import Worth
from vitrail.units import seconds, size


@dataclass(frozen=True)
class Kin:
    """A run, by which methods it was made smaller, and what it is worth."""

    name: str
    way: str
    worth: Worth


def best(runs: Sequence[Kin]) -> list[Kin]:
    """Return the runs that none beats in latency and accuracy at once, quickest first."""
    found: list[Kin] = []
    for one in sorted(runs, key=lambda k: (k.worth.latency_s, -k.worth.accuracy)):
        if not found or one.worth.accuracy > found[-1].worth.accuracy:
            found.append(one)
    return found


def chapter(runs: Sequence[Kin], this: str) -> Chapter:
    """Return the chapter that shows runs of one kin beside each other, `this` one among them."""
    rows = [
        (f"{one.name} (this one)" if one.name == this else one.name, one.way, one.worth.right,
         seconds(one.worth.latency_s), size(one.worth.size_bytes))
        for one in sorted(runs, key=lambda k: k.worth.latency_s)
    ]  # fmt: skip
    columns = [Column("run", "name"), Column("made by"), Column("test accuracy", "number")]
    columns += [Column("latency", "number"), Column("file", "number")]
    return Chapter("Beside its kin", [
        Paragraph(
            "Runs in the same folder that were made of the same model, judged on as many test "
            "images. Each latency was measured when its run was made, so small differences mean "
            "little."
        ),
        Figure(
            front(runs, this, canvas.WIDE), "Accuracy over latency of all of them",
            front(runs, this, canvas.NARROW),
            caption="The line joins what nothing else beats in both; bars are 95 % intervals.",
        ),
        Table(columns, rows),
    ])  # fmt: skip


def front(runs: Sequence[Kin], this: str, figure: tuple[float, float]) -> str:
    """Draw accuracy over latency, a shape and a colour for each way."""
    ways = sorted({one.way for one in runs})

    def draw(axes: Any) -> None:
        line = best(runs)
        axes.plot(
            [1e3 * one.worth.latency_s for one in line],
            [100 * one.worth.accuracy for one in line], color=canvas.SOFT, linewidth=1, zorder=1,
        )  # fmt: skip
        for number, way in enumerate(ways):
            some = [one.worth for one in runs if one.way == way]
            right = [100 * one.accuracy for one in some]
            # Rounding may have left an accuracy of 100 % outside of its interval.
            around = [
                [100 * max(0.0, one.accuracy - one.low) for one in some],
                [100 * max(0.0, one.high - one.accuracy) for one in some],
            ]
            axes.errorbar(
                [1e3 * one.latency_s for one in some], right, yerr=around, linestyle="none",
                marker=canvas.SHAPES[number % len(canvas.SHAPES)], label=way, elinewidth=0.8,
                color=canvas.SERIES[number % len(canvas.SERIES)],
            )  # fmt: skip
        own = [one.worth for one in runs if one.name == this]
        axes.plot(
            [1e3 * one.latency_s for one in own], [100 * one.accuracy for one in own], "o",
            markersize=13, markerfacecolor="none", markeredgecolor=canvas.INK,
        )  # fmt: skip
        axes.set_xlabel("latency as exported, ms")
        axes.set_ylabel("test accuracy, %")
        canvas.legend(axes, columns=3)

    return canvas.svg(draw, f"kin-{'wide' if figure == canvas.WIDE else 'narrow'}", figure)
