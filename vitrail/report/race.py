"""The chart of a race: accuracy over latency of all candidates, and the words below it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from vitrail.report.canvas import (
    ACCENT,
    FONT,
    SECOND,
    SERIES,
    SHAPES,
    SOFT,
    WIDE,
    legend,
    log_ticks,
    svg,
    within,
)
from vitrail.report.facts import CandidatePoint


def front(
    candidates: Sequence[CandidatePoint],
    limit_s: float | None,
    *,
    size: tuple[float, float] = WIDE,
    name: str = "front",
    measure: str = "accuracy",
) -> str:
    """Draw accuracy, or another `measure`, over latency; join the best at each latency.

    Filled marks were timed as exported, hollow ones in torch: each kind has a line of its own,
    for the same model takes longer in torch. A number is the candidate's place in `candidates`,
    from 1; one without an accuracy is a tick at the foot. The page has two sizes of it, each with
    its own `name` for the ids.
    """
    numbered = [(number, c) for number, c in enumerate(candidates, 1) if c.latency_s]
    shown = [(number, c) for number, c in numbered if c.accuracy is not None]
    if len(shown) < 2:
        return ""
    families = sorted({c.family for _, c in shown})
    tall = stretched(candidates)

    points = [c for _, c in shown]

    def draw(axes: Any) -> None:
        if tall:
            _stretch(axes, [_right(c) for c in points])
        _marks(axes, points, families)
        _best(axes, points)
        waits = [_wait(c) for _, c in numbered] + ([1e3 * limit_s] if limit_s else [])
        log_ticks(axes, waits)
        axes.margins(y=0.14)
        within(axes)
        _feet(axes, [_wait(c) for _, c in numbered if c.accuracy is None])
        if limit_s is not None:
            _budget(axes, 1e3 * limit_s, size[0])
        axes.set_xlabel("latency in ms, logarithmic")
        axes.set_ylabel(f"validation {measure}, %")
        legend(axes, columns=4 if size[0] < 6 else 8)
        _number(axes, shown, limit_s)

    return svg(draw, name, size)


def _marks(axes: Any, points: Sequence[CandidatePoint], families: Sequence[str]) -> None:
    """Draw a mark for each candidate, in the colour and shape of its family."""
    one_clock = len({c.timed for c in points}) == 1
    looks = itertools.cycle(zip(SERIES, SHAPES, strict=True))
    for family, (colour, shape) in zip(families, looks, strict=False):
        label: str | None = family
        for clock in ("exported", "torch"):
            own = [c for c in points if c.family == family and c.timed == clock]
            if own:
                filled = clock == "exported" or one_clock
                axes.scatter(
                    [_wait(c) for c in own], [_right(c) for c in own], s=42 if filled else 34,
                    facecolors=colour if filled else "none", edgecolors=colour, marker=shape,
                    label=label, zorder=3, linewidths=0 if filled else 1.3, clip_on=False,
                )  # fmt: skip
                label = None


def _best(axes: Any, points: Sequence[CandidatePoint]) -> None:
    """Join the best at each latency, of either clock by itself, and ring the winner."""
    clocks = sorted({c.timed for c in points})
    for clock in clocks:
        best = joined([c for c in points if c.timed == clock])
        axes.plot(
            [_wait(c) for c in best], [_right(c) for c in best], color=SOFT, linewidth=1.1,
            linestyle="-" if clock == "exported" or len(clocks) == 1 else (0, (1, 2)),
            alpha=0.7, zorder=2,
        )  # fmt: skip
    for c in points:
        if c.status == "won":
            axes.scatter(
                [_wait(c)], [_right(c)], s=170, facecolors="none", edgecolors=ACCENT,
                linewidths=1.8, zorder=4, clip_on=False,
            )  # fmt: skip


def _feet(axes: Any, waits: Sequence[float]) -> None:
    """Draw ticks at the foot for those without an accuracy."""
    axes.plot(
        waits, [0.0] * len(waits), "|", color=SOFT, markersize=9, markeredgewidth=1.3,
        transform=axes.get_xaxis_transform(), clip_on=False, zorder=5,
    )  # fmt: skip


def _budget(axes: Any, limit_ms: float, width: float) -> None:
    """Draw the limit of latency, and shade what is beyond."""
    axes.axvspan(limit_ms, axes.get_xlim()[1], color=SECOND, alpha=0.07, linewidth=0)
    axes.axvline(limit_ms, color=SECOND, linewidth=1.1, linestyle=(0, (4, 3)))
    side, shift = _side(axes, limit_ms, width)
    axes.annotate(
        "budget", (limit_ms, 1), (shift, -3), xycoords=("data", "axes fraction"),
        textcoords="offset points", color=SECOND, ha=side, va="top", in_layout=False,
    )  # fmt: skip


def caption(candidates: Sequence[CandidatePoint], measure: str = "accuracy") -> str:
    """Explain the marks of the race's chart."""
    said = [
        "Up is better, left is faster; the ring is the model that was chosen. Numbers are those "
        "of the table. Models that were stopped early stand where they stopped."
    ]
    clocks = {c.timed for c in candidates if c.latency_s and c.accuracy is not None}
    if len(clocks) > 1:
        said.append(
            "Filled marks were timed as exported, hollow ones in torch, which is slower for the "
            "same model: compare times among marks of one kind."
        )
    elif clocks:
        said.append(f"All were timed {'as exported' if 'exported' in clocks else 'in torch'}.")
    said.append("A line joins the models that no other of the same kind beats in both.")
    if stretched(candidates):
        said.append(f"The scale of {measure} widens towards 100\u00a0%.")
    if any(c.latency_s and c.accuracy is None for c in candidates):
        said.append("A tick at the foot is a model that did not race.")
    return " ".join(said)


def stretched(candidates: Sequence[CandidatePoint]) -> bool:
    """Return whether the accuracy axis of `front` is stretched towards 100 %,
    where the good models crowd.
    """
    right = [c.accuracy for c in candidates if c.latency_s and c.accuracy is not None]
    return bool(right) and max(right) > 0.8 and max(right) - min(right) > 0.2


def joined(candidates: Sequence[CandidatePoint]) -> list[CandidatePoint]:
    """Return the candidates that no other beats in both latency and accuracy, fastest first."""
    best: list[CandidatePoint] = []
    for c in sorted(candidates, key=lambda c: (_wait(c), -_right(c))):
        if not best or _right(c) > _right(best[-1]):
            best.append(c)
    return best


def _wait(c: CandidatePoint) -> float:
    return 1e3 * (c.latency_s or 0.0)


def _right(c: CandidatePoint) -> float:
    return 100 * (c.accuracy or 0.0)


def _stretch(axes: Any, right: Sequence[float]) -> None:
    """Make an accuracy axis logarithmic in the error, labelled with accuracies."""
    import numpy as np
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    def up(accuracy: Any) -> Any:
        return -np.log10(np.maximum(100.5 - np.asarray(accuracy, float), 0.05))

    def down(place: Any) -> Any:
        return 100.5 - 10.0 ** -np.asarray(place, float)

    axes.set_yscale("function", functions=(up, down))
    low, high = min(right), max(right)
    marks = [m for m in (0, 20, 40, 60, 70, 80, 85, 90, 92, 94, 96, 98, 99, 100) if m > low - 15]
    above = next((m for m in marks if m > high), 100)
    axes.yaxis.set_major_locator(FixedLocator([m for m in marks if m <= above]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _number(axes: Any, shown: Sequence[tuple[int, CandidatePoint]], limit_s: float | None) -> None:
    """Write each point's number beside it, where it covers least of
    points, numbers and the limit.
    """
    axes.figure.draw_without_rendering()
    scale = 72 / axes.figure.dpi
    spots = [axes.transData.transform((_wait(c), _right(c))) * scale for _, c in shown]
    taken = [(float(x), float(y)) for x, y in spots]
    if limit_s is not None:
        wall = float(axes.transData.transform((1e3 * limit_s, 50.0))[0]) * scale
        top = max(y for _, y in taken) + 20
        taken += [(wall, y) for y in range(0, math.ceil(top), 7)]
    angles = (45, 135, 315, 225, 90, 270, 0, 180)
    for (number, c), (x, y) in zip(shown, spots, strict=True):
        won = c.status == "won"
        reach = 15 if won else 10
        places = [
            (reach * math.cos(math.radians(a)), reach * math.sin(math.radians(a))) for a in angles
        ]

        def crowd(place: tuple[float, float], x: float = x, y: float = y) -> float:
            at = (x + place[0], y + place[1])
            return sum(max(0.0, 1 - math.dist(at, other) / 14) for other in taken)

        dx, dy = min(places, key=crowd)
        taken.append((float(x + dx), float(y + dy)))
        axes.annotate(
            str(number), (_wait(c), _right(c)), (dx, dy), textcoords="offset points",
            color=ACCENT if won else SOFT, fontsize=FONT if won else FONT - 1,
            fontweight="bold" if won else "normal", ha="center", va="center", in_layout=False,
        )  # fmt: skip


def _side(axes: Any, limit: float, width: float) -> tuple[str, int]:
    """Return how to write at the limit: after it, or before it where the figure ends too soon.

    Alignment and shift in points; `width` is that of the figure in inches.
    """
    low, high = axes.get_xlim()
    room = 72 * width * math.log(high / limit) / math.log(high / low)
    return ("left", 4) if room > 4.5 * FONT else ("right", -4)
