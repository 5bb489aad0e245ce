"""The report's plots, as SVG that takes its colours from the page.

matplotlib draws with stand-in colours, which become CSS variables in the SVG: so the same plot
is right on light and on dark paper.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from vitrail.report.facts import CalibrationFacts, CandidatePoint, CurvePoint

# Stand-ins, unlikely to occur otherwise, and the page's variables.
INK, SOFT, LINE, ACCENT, SECOND, PAPER = (
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606",
)  # fmt: skip
_VARIABLES = {
    INK: "--ink", SOFT: "--soft", LINE: "--line", ACCENT: "--accent", SECOND: "--second",
    PAPER: "--paper",
}  # fmt: skip
_SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06", "#0a0a07", "#0a0a08")
_VARIABLES |= {colour: f"--series-{i}" for i, colour in enumerate(_SERIES)}


def front(candidates: Sequence[CandidatePoint], limit_s: float | None) -> str:
    """Accuracy over latency of all candidates; the best at each latency are joined."""
    shown = [c for c in candidates if c.latency_s and c.accuracy is not None]
    if len(shown) < 2:
        return ""

    def draw(axes: Any) -> None:
        families = sorted({c.family for c in shown})
        for family, colour in zip(families, _SERIES, strict=False):
            own = [c for c in shown if c.family == family]
            axes.scatter(
                [1e3 * (c.latency_s or 0) for c in own],
                [100 * (c.accuracy or 0) for c in own],
                s=52, color=colour, label=family, zorder=3, linewidths=0,
            )  # fmt: skip
        best: list[CandidatePoint] = []
        for c in sorted(shown, key=lambda c: (c.latency_s or 0, -(c.accuracy or 0))):
            if not best or (c.accuracy or 0) > (best[-1].accuracy or 0):
                best.append(c)
        axes.plot(
            [1e3 * (c.latency_s or 0) for c in best],
            [100 * (c.accuracy or 0) for c in best],
            color=SOFT, linewidth=1, zorder=2,
        )  # fmt: skip
        for c in shown:
            if c.status == "won":
                x, y = 1e3 * (c.latency_s or 0), 100 * (c.accuracy or 0)
                axes.scatter([x], [y], s=190, facecolors="none", edgecolors=ACCENT, linewidths=2)
                axes.annotate(
                    "chosen", (x, y), (0, -16), textcoords="offset points", color=ACCENT,
                    fontsize=10, ha="center", va="top",
                )  # fmt: skip
        if limit_s is not None:
            axes.axvline(1e3 * limit_s, color=SECOND, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(
                "budget", (1e3 * limit_s, 1), (-4, -4), xycoords=("data", "axes fraction"),
                textcoords="offset points", color=SECOND, fontsize=10, ha="right", va="top",
            )  # fmt: skip
        _log_ticks(axes, [1e3 * (c.latency_s or 0) for c in shown] + [1e3 * (limit_s or 0)])
        axes.margins(x=0.08, y=0.18)
        axes.set_xlabel("latency, ms (batch 1)")
        axes.set_ylabel("validation accuracy, %")
        _legend(axes, len(families))

    return _svg(draw, "front", (7.2, 4.0))


def curves(points: Sequence[CurvePoint]) -> str:
    """Training loss and validation loss, and validation accuracy, over epochs."""
    train = [(p.epoch, p.train_loss) for p in points if p.train_loss is not None]
    held = [(p.epoch, p.val_loss) for p in points if p.val_loss is not None]
    right = [(p.epoch, 100 * p.val_accuracy) for p in points if p.val_accuracy is not None]
    if len(train) < 2:
        return ""

    def draw(axes: Any) -> None:
        left = axes[0]
        left.plot(*zip(*train, strict=True), color=SOFT, linewidth=1.2, label="training")
        if held:
            left.plot(
                *zip(*held, strict=True), color=ACCENT, linewidth=2, marker="o", markersize=4,
                label="validation",
            )  # fmt: skip
        left.set_xlabel("epochs")
        left.set_ylabel("cross entropy")
        _legend(left, 2)
        if right:
            axes[1].plot(
                *zip(*right, strict=True), color=ACCENT, linewidth=2, marker="o", markersize=4
            )
            axes[1].set_xlabel("epochs")
            axes[1].set_ylabel("validation accuracy, %")
        else:
            axes[1].set_axis_off()

    return _svg(draw, "curves", (7.2, 3.0), columns=2)


def reliability(found: CalibrationFacts) -> str:
    """How often the model is right against how sure it is, with and without temperature."""

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], color=LINE, linewidth=1.2)
        kinds = (
            (found.bins_before, SOFT, "as trained", 1.2),
            (found.bins, ACCENT, "calibrated", 2),
        )
        for bins, colour, label, width in kinds:
            some = [b for b in bins if b.n]
            if some:
                axes.plot(
                    [100 * b.confidence for b in some], [100 * b.accuracy for b in some],
                    color=colour, marker="o", markersize=4, linewidth=width, label=label,
                )  # fmt: skip
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_xlabel("how sure, %")
        axes.set_ylabel("how often right, %")
        _legend(axes, 2)

    return _svg(draw, "reliability", (4.4, 3.6)) if found.bins else ""


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Rows are true classes, columns answers; shade is the share of the row."""
    n = len(classes)

    def draw(axes: Any) -> None:
        for i, row in enumerate(counts):
            total = max(1, sum(row))
            for j, count in enumerate(row):
                if not count:
                    continue
                axes.add_patch(
                    _rectangle(j, i, ACCENT if i == j else SECOND, 0.12 + 0.88 * count / total)
                )
                if n <= 20:
                    strong = count / total > 0.5
                    axes.text(
                        j, i, str(count), ha="center", va="center",
                        fontsize=9 if n <= 12 else 7, color=PAPER if strong else INK,
                    )  # fmt: skip
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_ylim(n - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if n <= 40:
            names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
            size = 9 if n <= 20 else 6
            axes.set_xticks(range(n), names, rotation=45, ha="right", fontsize=size)
            axes.set_yticks(range(n), names, fontsize=size)
        axes.set_xlabel("answer")
        axes.set_ylabel("truth")

    side = min(7.2, 3.0 + 0.32 * n)
    return _svg(draw, "confusion", (side, side))


def _rectangle(x: float, y: float, colour: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=colour, alpha=alpha, linewidth=0)


def _log_ticks(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with round numbers, labelled plainly."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    positive = [v for v in values if v > 0]
    low, high = min(positive) / 1.3, max(positive) * 1.3
    marks = [
        m * 10.0**e
        for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for m in (1, 2, 5)
        if low <= m * 10.0**e <= high
    ]
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(axes: Any, entries: int) -> None:
    if entries > 1:
        axes.legend(
            frameon=False, fontsize=10, labelcolor=INK, loc="lower center",
            bbox_to_anchor=(0.5, 1.0), ncols=min(entries, 6), handletextpad=0.4, columnspacing=1.2,
        )  # fmt: skip


def _svg(
    draw: Callable[[Any], None], name: str, size: tuple[float, float], *, columns: int = 1
) -> str:
    """The SVG element of a figure, its stand-in colours replaced and its ids made its own."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 11,
        "text.color": INK,
        "axes.edgecolor": LINE,
        "axes.labelcolor": SOFT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "xtick.labelcolor": SOFT,
        "ytick.labelcolor": SOFT,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, columns)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", text)
    head = r'<svg [^>]*?viewBox="([^"]+)"[^>]*>'
    text = re.sub(head, r'<svg viewBox="\1" role="img">', text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
