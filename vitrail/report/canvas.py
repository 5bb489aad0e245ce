"""SVG figures that take their colours from the page, and what all of them share.

matplotlib draws with stand-in colours, which become CSS variables in the SVG: so the same plot
is right on light and on dark paper.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vitrail.report.text import plain

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
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "p")

WIDE, NARROW, HALF = (8.6, 4.3), (3.9, 3.7), (4.2, 3.0)  # inches at 72 points
FONT = 9.5  # points


def _make_plain(figure: Any) -> None:
    """Replace control characters in all words of a figure, those of its ticks included."""
    from matplotlib.text import Text

    for word in figure.findobj(Text):
        word.set_text(plain(word.get_text(), lines=True))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            said = [word.get_text() for word in axis.get_ticklabels()]
            if said != (shown := [plain(word, lines=True) for word in said]):
                axis.set_ticks(axis.get_ticklocs(), shown)


def svg(draw: Callable[[Any], None], name: str, size: tuple[float, float]) -> str:
    """Return the SVG element of a figure, its stand-in colours replaced and its ids made its
    own.

    What texts hold that a terminal would obey is shown by its escape.
    """
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
        _make_plain(figure)
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
    """Return an SVG of `svg` as a file of its own, which brings the page's colours along."""
    style = (Path(__file__).parent / "style.css.jinja").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.S)[:2]
    own = (
        f"<style>svg {{{light} background: var(--paper)}}\n"
        f"@media (prefers-color-scheme: dark) {{ svg {{{dark}}} }}</style>"
    )
    head, _, rest = drawn.partition(">")
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"{head} {spaces}>{own}{rest}\n"


def within(axes: Any, least: float = 0.0, most: float = 100.0) -> None:
    """Cut the y axis to the values that a percentage can have."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, least), min(high, most))


def log_ticks(axes: Any, values: Sequence[float], *, vertical: bool = False) -> None:
    """Make an axis logarithmic, with round numbers that are written out: 60, not 6x10^1."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values) / 1.35, max(values) * 1.35
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1e3 else (1,)
    marks = [m * 10.0**e for e in decades for m in steps if low <= m * 10.0**e <= high]
    axis = axes.yaxis if vertical else axes.xaxis
    scale, limit = (
        (axes.set_yscale, axes.set_ylim) if vertical else (axes.set_xscale, axes.set_xlim)
    )
    scale("log")
    limit(low, high)
    axis.set_major_locator(FixedLocator(marks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def legend(axes: Any, *, columns: int) -> None:
    """Write the names above the plot, from its left edge on."""
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(
            frameon=False, fontsize=FONT, labelcolor=SOFT, loc="lower left",
            bbox_to_anchor=(0.0, 1.0), ncols=columns, handletextpad=0.3, columnspacing=1.1,
            borderpad=0, borderaxespad=0.3, handlelength=1.4,
        )  # fmt: skip
