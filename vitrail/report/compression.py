"""What a model was before it was made smaller and what it is now; which parts of it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import escape

from vitrail.report.chapter import Chapter, Column, Figure, Paragraph, Table
from vitrail.report.text import plain
from vitrail.units import count, counted, percent, seconds, size

LABELS = {"dim": "embedding", "inner": "attention", "hidden": "MLP"}


@dataclass(frozen=True)
class Worth:
    """Tells what a model is worth and what it costs.

    `accuracy` is on the test images, with its 95 % interval; `latency_s` the median as exported,
    `size_bytes` that of the file.
    """

    accuracy: float
    low: float
    high: float
    n: int
    macs: int
    params: int
    latency_s: float
    size_bytes: int | None = None

    @property
    def right(self) -> str:
        """Say the accuracy with its interval."""
        return f"{percent(self.accuracy)} ({percent(self.low)} to {percent(self.high)})"

    def beyond(self, before: Worth) -> str:
        """Say by how many points the accuracy is another one than before."""
        return f"{100 * (self.accuracy - before.accuracy):+.1f} points".replace("-", "−")


@dataclass(frozen=True)
class Row:
    """A width: `kept` of its channels stay, of which `heads` = (before, now) where it has heads.

    A block that is gone keeps nothing.
    """

    name: str
    channels: int
    kept: Sequence[int]
    heads: tuple[int, int] | None = None


@dataclass(frozen=True)
class Compressed:
    """A model that was made smaller.

    `gain` is how many times as fast as before it is, with a 95 % interval of runs in turns, None
    where the older file is gone; `cut` the validation accuracy (before, after the cut, after the
    tuning); `rows` what stays of each width; `steps` those of the tuning.
    """

    source: str
    method: str
    budget: str
    before: Worth
    now: Worth
    gain: tuple[float, float, float] | None = None
    cut: tuple[float, float, float] | None = None
    rows: Sequence[Row] = ()
    steps: int = 0
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def sentence(self) -> str:
        """Say in a line what was won and lost."""
        b, n = self.before, self.now
        macs, params = percent(n.macs / b.macs, 0), percent(n.params / b.params, 0)
        said = (
            f"{macs} of the multiply-adds and {params} of the parameters of {self.source}: "
            f"{percent(n.accuracy)} right on the same {counted(n.n, 'test image')}, before "
            f"{percent(b.accuracy)}"
        )
        if self.gain is None:
            return said
        middle, low, high = self.gain
        if low <= 1 <= high:
            return f"{said}; not faster as exported beyond noise"
        word = "as fast" if middle >= 1 else "as fast, that is slower"
        return f"{said}; {middle:.2f} times {word} as exported"

    def to_json(self) -> dict[str, Any]:
        """Return what result.json says of it."""
        return {
            "source": self.source, "method": self.method, "budget": self.budget,
            "before": vars(self.before), "now": vars(self.now), "gain": self.gain,
            "validation": self.cut,
            "kept": {row.name: [len(row.kept), row.channels] for row in self.rows},
        }  # fmt: skip


def chapter(made: Compressed) -> Chapter:
    """Return the chapter that stands first on the page of a smaller model."""
    parts: list[Any] = [Paragraph(f"{made.sentence}."), _table(made)]
    if made.gain is not None:
        _, low, high = made.gain
        parts.append(Paragraph(
            f"Both files ran in turns on this machine: the smaller one is {low:.2f} to {high:.2f} "
            "times as fast (95 % interval). Intervals of accuracies are each model's own, on the "
            "same test images, which neither saw before it was finished.", soft=True,
        ))  # fmt: skip
    if made.cut is not None:
        first, raw, tuned = made.cut
        parts.append(Paragraph(
            f"On the validation images the model was right on {percent(first)} before, on "
            f"{percent(raw)} right after the cut, and on {percent(tuned)} after "
            f"{counted(made.steps, 'step')} of tuning, in which it learned from what it was.",
        ))  # fmt: skip
    if made.rows:
        parts.append(Figure(
            picture(made.rows), "Which channels of every width stay", picture(made.rows, 390),
            caption="A stripe is a channel: coloured ones stay. Thin gaps are between the heads "
            "as they were.",
        ))  # fmt: skip
        parts += [Paragraph(said) for said in _went(made.rows)]
    parts += [Paragraph(note, soft=True) for note in made.notes]
    return Chapter("What became smaller", parts)


def _table(made: Compressed) -> Table:
    """Lay out both models, and what is left of each figure."""
    b, n = made.before, made.now
    rows = [
        ("test accuracy", b.right, n.right, n.beyond(b)),
        ("multiply-adds", count(b.macs), count(n.macs), percent(n.macs / b.macs, 0)),
        ("parameters", count(b.params), count(n.params), percent(n.params / b.params, 0)),
        *exported(b, n),
    ]  # fmt: skip
    return Table(side_by_side(), rows)


def exported(before: Worth, now: Worth) -> list[tuple[str, str, str, str]]:
    """Return the rows of both files: what they take, and their sizes where both are known."""
    b, n = before, now
    rows = [
        ("latency as exported", seconds(b.latency_s), seconds(n.latency_s),
         percent(n.latency_s / b.latency_s, 0))
    ]  # fmt: skip
    if b.size_bytes and n.size_bytes:
        left = percent(n.size_bytes / b.size_bytes, 0)
        rows.append(("file", size(b.size_bytes), size(n.size_bytes), left))
    return rows


def side_by_side() -> list[Column]:
    """Return the columns of a table of what was and what is left."""
    return [Column(""), *(Column(title, "number") for title in ("before", "now", "left"))]


def picture(rows: Sequence[Row], wide: int = 860) -> str:
    """Draw a track for every width, block under block, a stripe for each channel that stays.

    All stripes of a track are one path, so that a large model stays a small picture.
    """
    label, figures, high, gap = 92, 74, 12, 6
    drawn, y = [], 4
    for row in rows:
        room = wide - label - figures
        scale = room / row.channels
        cells = ""
        for first, behind in _runs(row.kept):
            left = f"{label + scale * first:.1f}"
            cells += f"M{left} {y}h{scale * (behind - first):.1f}v{high}H{left}z"
        drawn.append(
            f'<rect x="{label}" y="{y}" width="{room}" height="{high}" fill="var(--line)"/>'
            f'<path fill="var(--accent)" d="{cells}"/>{_borders(row, label, room, y, high)}'
            f'<text x="0" y="{y + high - 2}" fill="var(--soft)">{escape(plain(row.name))}</text>'
            f'<text x="{wide}" y="{y + high - 2}" text-anchor="end" fill="var(--ink)">'
            f"{len(row.kept)}/{row.channels}</text>"
        )
        y += high + gap
    return (
        f'<svg viewBox="0 0 {wide} {y}" role="img" font-family="var(--sans)" font-size="10.5">'
        f"{''.join(drawn)}</svg>"
    )


def _went(rows: Sequence[Row]) -> list[str]:
    """Say which blocks are gone, and how many heads the others keep."""
    attention = f"{LABELS['inner']} "
    blocks = [row for row in rows if row.name.startswith(attention)]
    gone = [row.name.removeprefix(attention) for row in blocks if not row.kept]
    said = [f"Gone as a whole: {'blocks' if len(gone) > 1 else 'block'} {', '.join(gone)}."]
    stay = [(row.name.removeprefix(attention), row.heads) for row in blocks if row.kept]
    counts = {heads for _, heads in stay}
    if counts == {None} or not stay:
        return said if gone else []
    (first, *others) = counts
    if first is not None and not others:
        heads = f"Of {counted(first[0], 'head')} a block {first[1]} stay."
    else:
        heads = "Heads that stay: " + ", ".join(
            f"{heads[1]} of {heads[0]} in block {name}" for name, heads in stay if heads
        ) + "."  # fmt: skip
    return [*(said if gone else []), heads]


def _borders(row: Row, left: int, room: int, y: int, high: int) -> str:
    """Draw the borders of the old heads."""
    if row.heads is None or row.heads[0] < 2:
        return ""
    step = room / row.heads[0]
    lines = "".join(f"M{left + step * n:.1f} {y}v{high}" for n in range(1, row.heads[0]))
    return f'<path stroke="var(--card)" stroke-width="1.5" d="{lines}"/>'


def _runs(kept: Sequence[int]) -> list[tuple[int, int]]:
    """Return neighbouring channels together, as (first, behind the last)."""
    runs: list[tuple[int, int]] = []
    for channel in sorted(kept):
        if runs and runs[-1][1] == channel:
            runs[-1] = runs[-1][0], channel + 1
        else:
            runs.append((channel, channel + 1))
    return runs


def rows(
    sizes: Mapping[str, int],
    kept: Mapping[str, Sequence[int]],
    heads: Mapping[str, tuple[int, int]],
    without: Sequence[int] = (),
) -> list[Row]:
    """Return a row for every width, in the order of the model.

    `sizes` and `heads` (before, now) are by the width's name, `without` the blocks that go.
    """
    found = []
    for width, n in sizes.items():
        name, *block = width.split(".")
        if name not in LABELS:
            continue
        gone = bool(block) and int(block[0]) in without and len(block) == 1
        stays = () if gone else tuple(kept.get(width, range(n)))
        title = " ".join([LABELS[name], *(str(int(b) + 1) for b in block)])
        found.append(Row(title, n, stays, heads.get(width)))
    return found
