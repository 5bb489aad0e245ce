"""Plots of a training and of its answers: losses, accuracy, calibration, confusions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vitrail.report.canvas import ACCENT, HALF, SOFT, legend, svg, within
from vitrail.report.facts import CurvePoint
from vitrail.report.scores import CalibrationFacts

# Percentage points that an axis of scores shows at least: what is less is noise, enlarged.
LEAST_RANGE = 1.0


def losses(points: Sequence[CurvePoint], what: str = "cross entropy, nats") -> str:
    """Draw training loss, thin and averaged, and validation loss over epochs; `what` it is."""
    train = [(p.epoch, p.train_loss) for p in points if p.train_loss is not None]
    held = [(p.epoch, p.val_loss) for p in points if p.val_loss is not None]
    if len(train) < 2:
        return ""

    def draw(axes: Any) -> None:
        epochs, values = zip(*train, strict=True)
        axes.plot(epochs, values, color=SOFT, linewidth=0.7, alpha=0.4)
        axes.plot(epochs, _smooth(values), color=SOFT, linewidth=1.5, label="training")
        if held:
            axes.plot(*zip(*held, strict=True), color=ACCENT, label="validation", **_line(held))
        axes.set_xlabel("epochs")
        axes.set_ylabel(what)
        legend(axes, columns=2)

    return svg(draw, "losses", HALF)


def rise(points: Sequence[CurvePoint], measure: str = "accuracy") -> str:
    """Draw validation accuracy, or another `measure`, over epochs, the last value beside it."""
    right = [(p.epoch, 100 * p.val_score) for p in points if p.val_score is not None]
    if len(right) < 2:
        return ""

    def draw(axes: Any) -> None:
        axes.plot(*zip(*right, strict=True), color=ACCENT, clip_on=False, **_line(right))
        axes.annotate(
            f"{right[-1][1]:.1f}", right[-1], (0, 6), textcoords="offset points", color=ACCENT,
            ha="right", va="bottom", fontweight="bold",
        )  # fmt: skip
        axes.margins(y=0.12)
        low, high = axes.get_ylim()
        short = max(0.0, LEAST_RANGE - (high - low)) / 2
        axes.set_ylim(low - short, high + short)
        within(axes)
        axes.set_xlabel("epochs")
        axes.set_ylabel(f"validation {measure}, %")

    return svg(draw, "rise", HALF)


def reliability(found: CalibrationFacts) -> str:
    """Draw how often the model is right against how sure it is, with and without temperature.

    A point's area grows with the number of images in its bin.
    """

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=SOFT, linewidth=1, linestyle=(0, (1, 3)))
        kinds = (
            (found.bins_before, SOFT, "as trained", 1.2),
            (found.bins, ACCENT, "calibrated", 1.8),
        )
        for bins, colour, label, width in kinds:
            some = [b for b in bins if b.n]
            if some:
                most = max(b.n for b in some)
                sure, right = [100 * b.confidence for b in some], [100 * b.accuracy for b in some]
                axes.plot(sure, right, color=colour, linewidth=width, alpha=0.75)
                axes.scatter(
                    sure, right, s=[8 + 70 * b.n / most for b in some], color=colour,
                    linewidths=0, label=label, zorder=3, clip_on=False,
                )  # fmt: skip
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("how sure, %")
        axes.set_ylabel("how often right, %")
        legend(axes, columns=2)

    return svg(draw, "reliability", HALF) if any(b.n for b in found.bins) else ""


def confusion_map(counts: Sequence[Sequence[int]]) -> str:
    """Draw a cell per pair of classes, without words: for more classes than a table can show.

    Rows are true classes, columns answers; the shade is the share of the row in eight steps,
    each step one path, so that 200 classes stay a small picture.
    """
    n = len(counts)
    paths: dict[tuple[bool, int], list[str]] = {}
    for i, row in enumerate(counts):
        total = max(1, sum(row))
        for j, count in enumerate(row):
            if count:
                step = math.ceil(8 * count / total)
                paths.setdefault((i == j, step), []).append(f"M{j} {i}h1v1h-1z")
    drawn = "".join(
        f'<path fill="var(--{"accent" if same else "second"})" '
        f'fill-opacity="{0.2 + 0.1 * step:.1f}" d="{"".join(cells)}"/>'
        for (same, step), cells in sorted(paths.items())
    )
    return (
        f'<svg viewBox="0 0 {n} {n}" role="img" shape-rendering="crispEdges">'
        f'<rect width="{n}" height="{n}" fill="var(--card)"/>{drawn}</svg>'
    )


def _line(points: Sequence[object]) -> dict[str, Any]:
    """Return the style of a bold line, with a dot at each value while there are few."""
    return {"linewidth": 1.8, "marker": "o", "markersize": 3.5 if len(points) <= 40 else 0}


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the mean of each value with its neighbours, up to a fifteenth of all to each side."""
    means = []
    for i in range(len(values)):
        reach = min(max(1, len(values) // 15), i, len(values) - 1 - i)
        window = values[i - reach : i + reach + 1]
        means.append(sum(window) / len(window))
    return means
