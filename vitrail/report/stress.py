"""Chapters of a model under stress: right answers under attack, and on corrupted pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitrail.report.canvas import ACCENT, HALF, SOFT, legend, svg, within
from vitrail.report.chapter import Card, Chapter, Column, Figure, Gallery, Paragraph, Part, Table
from vitrail.units import counted, percent


@dataclass(frozen=True)
class AttackRow:
    """Shares in [0, 1] of images that are right under an attack, with the 95 % interval."""

    name: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class AttackFacts:
    """A model under attack: `norm` and `radius` of the ball, n images, one row an attack.

    The first row is that without an attack, the last that of images which withstood all of them.
    `members` are the attacks of AutoAttack in their order, where it was asked for.
    """

    norm: str
    radius: float
    n: int
    rows: Sequence[AttackRow]
    members: Sequence[str] = ()

    @property
    def ball(self) -> str:
        """Return the ball as a reader would write it: "4/255 in the maximum norm"."""
        whole = 255 * self.radius
        levels = f"{whole:g}/255" if abs(whole - round(whole)) < 1e-9 else f"{self.radius:g}"
        return f"{levels} in the {'maximum' if self.norm == 'linf' else 'Euclidean'} norm"


@dataclass(frozen=True)
class CorruptionFacts:
    """A model on n corrupted pictures: a task's main score and what it is called.

    `clean` is that of the pictures as they are; `rows` has for each corruption the scores at
    severities 1 to 5, in [0, 1].
    """

    score: str
    n: int
    clean: float
    rows: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Return the mean over all corruptions and severities."""
        means = [sum(row) / len(row) for row in self.rows.values()]
        return sum(means) / len(means)


def attack_chapter(facts: AttackFacts, cards: Sequence[Card]) -> Chapter:
    """Return the chapter of attacks; cards show images before and after."""
    parts: list[Part] = [
        Paragraph(
            f"Each of {counted(facts.n, 'image')} may be changed by {facts.ball}, so that the "
            f"answer becomes wrong. {percent(facts.rows[-1].accuracy)} withstand all attacks."
        ),
        Table(
            [Column("attack"), Column("right", "number"), Column("", "bar"),
             Column("95 % interval", "number")],
            [(r.name, percent(r.accuracy), r.accuracy, f"{percent(r.low)} to {percent(r.high)}")
             for r in facts.rows],
        ),
        Paragraph(
            "PGD climbs the loss by steps of one length, Auto-PGD by steps that it halves where "
            f"the loss no longer rises; both know the model's gradients. {_of_members(facts)}A "
            "stronger attack may exist, so these shares are upper bounds.",
            soft=True,
        ),
    ]  # fmt: skip
    if cards:
        parts += [Paragraph("Before and after an attack:"), Gallery(cards, small=True)]
    return Chapter("Under attack", parts)


def _of_members(facts: AttackFacts) -> str:
    if not facts.members:
        return ""
    return (
        f"AutoAttack is {', '.join(facts.members)} in this order, each on the images that are "
        "left, by the code of its authors. "
    )


def corruption_chapter(facts: CorruptionFacts, cards: Sequence[Card]) -> Chapter:
    """Return the chapter of corruptions; cards show a picture under each of them."""
    said = (
        f"{facts.score.capitalize()} on {counted(facts.n, 'image')}: {percent(facts.clean)} as "
        f"they are, {percent(facts.mean)} in the mean over {len(facts.rows)} corruptions at five "
        "severities."
    )
    columns = [Column("corruption"), *(Column(str(s), "number") for s in range(1, 6)),
               Column("mean", "number")]  # fmt: skip
    worst = sorted(facts.rows.items(), key=lambda row: sum(row[1]))
    table = Table(
        columns,
        [
            (spoken(name), *map(percent, row), percent(sum(row) / len(row)))
            for name, row in worst
        ],
    )  # fmt: skip
    parts: list[Part] = [
        Paragraph(said),
        Figure(falling(facts), "score over severity"),
        table,
        Paragraph(
            "Strengths follow the size of the pictures, and snow, frost and fog are drawn, so "
            "these are not figures of ImageNet-C or CIFAR-10-C.",
            soft=True,
        ),
        Gallery(cards, small=True),
    ]
    return Chapter("On corrupted pictures", parts)


def falling(facts: CorruptionFacts) -> str:
    """Draw the score of every corruption over severity, and their mean in bold."""

    def draw(axes: Any) -> None:
        severities = range(6)
        for row in facts.rows.values():
            values = [100 * v for v in (facts.clean, *row)]
            axes.plot(severities, values, color=SOFT, linewidth=0.8, alpha=0.5)
        columns = zip(*facts.rows.values(), strict=True)
        means = [100 * sum(column) / len(facts.rows) for column in columns]
        values = [100 * facts.clean, *means]
        axes.plot(severities, values, color=ACCENT, linewidth=1.8, marker="o", label="mean")
        axes.set_xlabel("severity, 0 for pictures as they are")
        axes.set_ylabel(f"{facts.score}, %")
        within(axes)
        legend(axes, columns=1)

    return svg(draw, "falling", HALF)


def spoken(name: str) -> str:
    """Return a corruption's name for readers."""
    return name.replace("_", " ").replace("jpeg", "JPEG")
