"""What a model of fewer GELUs and softmaxes costs on secrets, and which of them stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vitrail.report.chapter import Chapter, Figure, Paragraph, Table
from vitrail.report.compression import Worth, exported, side_by_side
from vitrail.units import count, counted, percent, seconds, size

# One list for each block, with one row for each head or for the whole MLP, a switch a token.
Rows = Sequence[Sequence[Sequence[bool]]]


@dataclass(frozen=True)
class Private:
    """The predicted cost of one image between two parties: seconds of their processors, bytes and
    messages that each sends, and the whole on a local network and on a wide one."""

    compute_s: float
    bytes: float
    messages: int
    lan_s: float
    wan_s: float


@dataclass(frozen=True)
class Switches:
    """A model of fewer GELUs and softmaxes beside what it was.

    `was` and `left` count (tokens of GELU, rows of softmax), `validation` is the accuracy (before,
    now), `gelus` and `softmaxes` say which are on.
    """

    source: str
    method: str
    before: Worth
    now: Worth
    predicted_before: Private
    predicted: Private
    was: tuple[int, int]
    left: tuple[int, int]
    validation: tuple[float, float]
    gelus: Rows
    softmaxes: Rows

    @property
    def sentence(self) -> str:
        """Say in a line what was won and lost."""
        b, n = self.before, self.now
        share = self.predicted.lan_s / self.predicted_before.lan_s
        return (
            f"{self.left[0]} of {self.was[0]} tokens of GELU and {self.left[1]} of {self.was[1]} "
            f"rows of softmax of {self.source}: {percent(n.accuracy)} right on the same "
            f"{counted(n.n, 'test image')}, before {percent(b.accuracy)}; on secrets it is "
            f"predicted to take {percent(share, 0)} of the time"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what result.json says of it."""
        return {
            "source": self.source, "method": self.method,
            "before": vars(self.before), "now": vars(self.now), "validation": self.validation,
            "gelus": [self.left[0], self.was[0]], "softmaxes": [self.left[1], self.was[1]],
            "predicted": {"before": asdict(self.predicted_before), "now": asdict(self.predicted)},
        }  # fmt: skip


def chapter(made: Switches) -> Chapter:
    """Return the chapter that stands first on the page of a model of fewer switches."""
    drawn = picture(made.gelus, made.softmaxes)
    return Chapter("What is left for computing on secrets", [
        Paragraph(f"{made.sentence}."),
        _table(made),
        Paragraph(
            "Predicted with a table of single operations of SPU 0.9.5 (two parties, SEMI2K): the "
            "seconds of both processors one after the other, the bytes over the network's "
            "bandwidth, and its round trip for every message. Local: 1 Gbit/s and 1 ms; wide: 100 "
            "Mbit/s and 40 ms. `vitrail private` measures it.", soft=True,
        ),
        Figure(
            drawn, "Which GELUs and softmaxes of every block stay",
            caption="A column is a token, the first of them the class token where there is one; a "
            "row is the GELUs of a block, and below it one for each head's rows of softmax. "
            "Coloured ones stay.",
        ),
    ])  # fmt: skip


def _table(made: Switches) -> Table:
    """Lay out both models, and what is left of each figure."""
    b, n, pb, pn = made.before, made.now, made.predicted_before, made.predicted
    pairs = [
        ("tokens of GELU", made.was[0], made.left[0], str),
        ("rows of softmax", made.was[1], made.left[1], str),
        ("bytes that each sends", pb.bytes, pn.bytes, lambda v: size(int(v))),
        ("messages that each sends", pb.messages, pn.messages, count),
        ("processors", pb.compute_s, pn.compute_s, seconds),
        ("on a local network", pb.lan_s, pn.lan_s, seconds),
        ("on a wide network", pb.wan_s, pn.wan_s, seconds),
    ]
    rows = [("test accuracy", b.right, n.right, n.beyond(b))]
    rows += [(name, say(was), say(is_), percent(is_ / was, 0)) for name, was, is_, say in pairs]
    return Table(side_by_side(), rows + exported(b, n))


def picture(gelus: Rows, softmaxes: Rows, wide: int = 860) -> str:
    """Draw a track for every block's GELUs, and under it a thin one for every head's softmaxes."""
    label, y, drawn = 92, 4, []
    for number, (mlp, heads) in enumerate(zip(gelus, softmaxes, strict=True), 1):
        drawn.append(f'<text x="0" y="{y + 10}" fill="var(--soft)">block {number}</text>')
        for rows, high, ink in ((mlp, 10, "var(--accent)"), (heads, 5, "var(--ink)")):
            for row in rows:
                step = (wide - label) / len(row)
                cells = "".join(
                    f"M{label + step * n:.1f} {y}h{step:.1f}v{high}h{-step:.1f}z"
                    for n, on in enumerate(row) if on
                )  # fmt: skip
                drawn.append(
                    f'<rect x="{label}" y="{y}" width="{wide - label}" height="{high}" '
                    f'fill="var(--line)"/><path fill="{ink}" d="{cells}"/>'
                )
                y += high + 2
        y += 6
    return (
        f'<svg viewBox="0 0 {wide} {y}" role="img" font-family="var(--sans)" font-size="10.5">'
        f"{''.join(drawn)}</svg>"
    )
