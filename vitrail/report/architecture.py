"""A network drawn block by block, so that people see where it is wide and where it is thin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.report.canvas import FONT, INK, LINE, SERIES, SOFT, legend, svg

HEIGHT = 0.3  # inches for a part of a block
LETTER = 0.078  # inches for a letter of its name
# Room beside the widest part, in its widths.
LEFT, RIGHT = 0.45, 0.25


@dataclass(frozen=True)
class Block:
    """A block: its parts by name with their widths in channels, and a word beside it.

    One without parts is a slot that was left empty.
    """

    label: str
    parts: Sequence[tuple[str, float]] = ()
    note: str = ""


def drawn(blocks: Sequence[Block], width: float, name: str) -> str:
    """Return an SVG of `width` inches: a bar around the middle for every part, top to bottom.

    A kind of part has one colour throughout; empty slots are dashes. What a block is called stands
    left of it, or where that is too long for the width in a line above it.
    """
    kinds = list(dict.fromkeys(kind for block in blocks for kind, _ in block.parts))
    widest = max((size for block in blocks for _, size in block.parts), default=1.0)
    longest = max((len(_words(block)) for block in blocks), default=0)
    above = longest * LETTER > LEFT / (LEFT + RIGHT + 1) * width
    rows = sum(max(1, len(block.parts)) + above for block in blocks) + 0.5 * len(blocks)
    left = RIGHT if above else LEFT

    def draw(axes: Any) -> None:
        axes.plot([0, 0], [0.3, -rows], color=LINE, linewidth=1.4, zorder=1)
        y, told = 0.0, set()
        for block in blocks:
            _name(axes, block, y - 0.5 if above else y - max(1, len(block.parts)) / 2)
            y -= above
            for kind, size in block.parts:
                axes.barh(
                    [y - 0.5], [size], left=[-size / 2], height=0.86, zorder=3, linewidth=0,
                    color=SERIES[kinds.index(kind) % len(SERIES)], alpha=0.85,
                    label=None if kind in told else kind,
                )  # fmt: skip
                _write(axes, f"{size:,.0f}", size / 2, y - 0.5)
                told.add(kind)
                y -= 1
            if not block.parts:
                axes.plot(
                    [-0.06 * widest, 0.06 * widest], [y - 0.5] * 2, color=SOFT, linewidth=1.1,
                    linestyle=(0, (3, 3)), zorder=3,
                )  # fmt: skip
                y -= 1
            y -= 0.5
        axes.set_xlim(-(0.5 + left) * widest, (0.5 + RIGHT) * widest)
        axes.set_ylim(-rows, 0.4)
        axes.set_axis_off()
        legend(axes, columns=3)

    return svg(draw, name, (width, max(1.2, HEIGHT * rows)))


def _words(block: Block) -> str:
    if not block.parts:
        return f"{block.label}: left out"
    return f"{block.label}: {block.note}" if block.note else block.label


def _name(axes: Any, block: Block, y: float) -> None:
    """Write what a block is called, at the left edge."""
    axes.annotate(
        _words(block), (0, y), xycoords=("axes fraction", "data"), va="center", fontsize=FONT - 1,
        color=INK if block.parts else SOFT,
    )  # fmt: skip


def _write(axes: Any, text: str, x: float, y: float) -> None:
    """Write the width of a part beside its bar."""
    axes.annotate(
        text, (x, y), (5, 0), textcoords="offset points", va="center", color=SOFT,
        fontsize=FONT - 2, annotation_clip=False,
    )  # fmt: skip
