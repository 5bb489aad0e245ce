"""The report's plots, as SVG that takes its colours from the page.

matplotlib draws with stand-in colours, which become CSS variables in the SVG: so the same plot
is right on light and on dark paper.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
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
SERIES = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06", "#0a0a07", "#0a0a08")
_VARIABLES |= {colour: f"--series-{i}" for i, colour in enumerate(SERIES)}
# A family has a shape besides its colour, for those who do not tell colours apart.
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")

WIDE, NARROW, HALF = (8.6, 4.3), (3.9, 3.7), (4.2, 3.0)  # inches at 72 points
FONT = 9.5  # points


def front(
    candidates: Sequence[CandidatePoint],
    limit_s: float | None,
    *,
    size: tuple[float, float] = WIDE,
    name: str = "front",
) -> str:
    """Accuracy over latency of all candidates; the best at each latency are joined.

    A number is the candidate's place in `candidates`, from 1. Who has no accuracy is a tick at
    the foot. The page has two sizes of it, each with its own `name` for the ids.
    """
    numbered = [(number, c) for number, c in enumerate(candidates, 1) if c.latency_s]
    shown = [(number, c) for number, c in numbered if c.accuracy is not None]
    if len(shown) < 2:
        return ""
    families = sorted({c.family for _, c in shown})
    tall = stretched(candidates)

    def draw(axes: Any) -> None:
        if tall:
            _stretch(axes, [_right(c) for _, c in shown])
        for family, (colour, shape) in zip(
            families, itertools.cycle(zip(SERIES, _SHAPES, strict=True)), strict=False
        ):
            own = [c for _, c in shown if c.family == family]
            axes.scatter(
                [_wait(c) for c in own], [_right(c) for c in own], s=42, color=colour,
                marker=shape, label=family, zorder=3, linewidths=0,
            )  # fmt: skip
        best = joined([c for _, c in shown])
        axes.plot(
            [_wait(c) for c in best], [_right(c) for c in best],
            color=SOFT, linewidth=1.1, alpha=0.7, zorder=2,
        )  # fmt: skip
        for _, c in shown:
            if c.status == "won":
                axes.scatter(
                    [_wait(c)], [_right(c)], s=170, facecolors="none", edgecolors=ACCENT,
                    linewidths=1.8, zorder=4,
                )  # fmt: skip
        waits = [_wait(c) for _, c in numbered] + ([1e3 * limit_s] if limit_s else [])
        log_ticks(axes, waits)
        axes.margins(y=0.14)
        feet = [_wait(c) for _, c in numbered if c.accuracy is None]
        axes.plot(
            feet, [0.0] * len(feet), "|", color=SOFT, markersize=9, markeredgewidth=1.3,
            transform=axes.get_xaxis_transform(), clip_on=False, zorder=5,
        )  # fmt: skip
        if limit_s is not None:
            axes.axvspan(1e3 * limit_s, axes.get_xlim()[1], color=SECOND, alpha=0.07, linewidth=0)
            axes.axvline(1e3 * limit_s, color=SECOND, linewidth=1.1, linestyle=(0, (4, 3)))
            side, shift = _side(axes, 1e3 * limit_s, size[0])
            axes.annotate(
                "budget", (1e3 * limit_s, 1), (shift, -3), xycoords=("data", "axes fraction"),
                textcoords="offset points", color=SECOND, ha=side, va="top", in_layout=False,
            )  # fmt: skip
        axes.set_xlabel("latency in ms, logarithmic")
        axes.set_ylabel("validation accuracy, %")
        _legend(axes, columns=4 if size[0] < 6 else 8)
        _number(axes, shown, limit_s)

    return svg(draw, name, size)


def stretched(candidates: Sequence[CandidatePoint]) -> bool:
    """Whether the front's accuracy axis is stretched towards 100 %, where the good ones crowd."""
    right = [c.accuracy for c in candidates if c.latency_s and c.accuracy is not None]
    return bool(right) and max(right) > 0.8 and max(right) - min(right) > 0.2


def joined(candidates: Sequence[CandidatePoint]) -> list[CandidatePoint]:
    """The candidates that no other beats in both latency and accuracy, the fastest first."""
    best: list[CandidatePoint] = []
    for c in sorted(candidates, key=lambda c: (_wait(c), -_right(c))):
        if not best or _right(c) > _right(best[-1]):
            best.append(c)
    return best


def losses(points: Sequence[CurvePoint]) -> str:
    """Training loss, thin and averaged, and validation loss over epochs."""
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
        axes.set_ylabel("cross entropy, nats")
        _legend(axes, columns=2)

    return svg(draw, "losses", HALF)


def rise(points: Sequence[CurvePoint]) -> str:
    """Validation accuracy over epochs, the last value written beside it."""
    right = [(p.epoch, 100 * p.val_accuracy) for p in points if p.val_accuracy is not None]
    if len(right) < 2:
        return ""

    def draw(axes: Any) -> None:
        axes.plot(*zip(*right, strict=True), color=ACCENT, **_line(right))
        axes.annotate(
            f"{right[-1][1]:.1f}", right[-1], (0, 6), textcoords="offset points", color=ACCENT,
            ha="right", va="bottom", fontweight="bold",
        )  # fmt: skip
        axes.margins(y=0.12)
        axes.set_xlabel("epochs")
        axes.set_ylabel("validation accuracy, %")

    return svg(draw, "rise", HALF)


def reliability(found: CalibrationFacts) -> str:
    """How often the model is right against how sure it is, with and without temperature.

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
        axes.set_xlim(0, 104)
        axes.set_ylim(0, 104)
        axes.set_xlabel("how sure, %")
        axes.set_ylabel("how often right, %")
        _legend(axes, columns=2)

    return svg(draw, "reliability", HALF) if any(b.n for b in found.bins) else ""


def confusion_map(counts: Sequence[Sequence[int]]) -> str:
    """A cell per pair of classes, without words: for more classes than a table can show.

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


def _wait(c: CandidatePoint) -> float:
    return 1e3 * (c.latency_s or 0.0)


def _right(c: CandidatePoint) -> float:
    return 100 * (c.accuracy or 0.0)


def _line(points: Sequence[object]) -> dict[str, Any]:
    """A bold line, with a dot at each value while there are few."""
    return {"linewidth": 1.8, "marker": "o", "markersize": 3.5 if len(points) <= 40 else 0}


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of each value with its neighbours, up to a fifteenth of all to each side."""
    means = []
    for i in range(len(values)):
        reach = min(max(1, len(values) // 15), i, len(values) - 1 - i)
        window = values[i - reach : i + reach + 1]
        means.append(sum(window) / len(window))
    return means


def _stretch(axes: Any, right: Sequence[float]) -> None:
    """An accuracy axis that is logarithmic in the error, labelled with accuracies."""
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
    """Each point's number beside it, where it covers least of points, numbers and the limit."""
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


def log_ticks(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis with round numbers, labelled plainly."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values) / 1.35, max(values) * 1.35
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


def _side(axes: Any, limit: float, width: float) -> tuple[str, int]:
    """How to write at the limit: after it, or before it where the figure ends too soon.

    Alignment and shift in points; `width` is that of the figure in inches.
    """
    low, high = axes.get_xlim()
    room = 72 * width * math.log(high / limit) / math.log(high / low)
    return ("left", 4) if room > 4.5 * FONT else ("right", -4)


def _legend(axes: Any, *, columns: int) -> None:
    """The names above the plot, from its left edge on."""
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(
            frameon=False, fontsize=FONT, labelcolor=SOFT, loc="lower left",
            bbox_to_anchor=(0.0, 1.0), ncols=columns, handletextpad=0.3, columnspacing=1.1,
            borderpad=0, borderaxespad=0.3, handlelength=1.4,
        )  # fmt: skip


def svg(draw: Callable[[Any], None], name: str, size: tuple[float, float]) -> str:
    """The SVG element of a figure, its stand-in colours replaced and its ids made its own."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": FONT,
        "text.color": INK,
        "axes.edgecolor": LINE,
        "axes.labelcolor": SOFT,
        "axes.labelsize": FONT,
        "axes.labelpad": 5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "xtick.color": LINE,
        "ytick.color": LINE,
        "ytick.major.size": 0,
        "xtick.labelcolor": SOFT,
        "ytick.labelcolor": SOFT,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]*", r"font: \1\2px var(--sans)", text)
    head = r'<svg [^>]*?viewBox="([^"]+)"[^>]*>'
    text = re.sub(head, r'<svg viewBox="\1" role="img">', text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)


def alone(drawn: str) -> str:
    """An SVG of `svg` as a file of its own: it brings the page's colours along."""
    style = (Path(__file__).parent / "style.css.jinja").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.S)[:2]
    own = (
        f"<style>svg {{{light} background: var(--paper)}}\n"
        f"@media (prefers-color-scheme: dark) {{ svg {{{dark}}} }}</style>"
    )
    head, _, rest = drawn.partition(">")
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"{head} {spaces}>{own}{rest}\n"
