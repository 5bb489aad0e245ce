"""What pages of things that find each other share: images, clips, sounds and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.report import canvas
from vitrail.report.chapter import (
    Card,
    Chapter,
    Column,
    Figure,
    Gallery,
    Heading,
    Matrix,
    Pair,
    Paragraph,
    Table,
)
from vitrail.report.facts import FindingFacts
from vitrail.report.page import filled
from vitrail.report.text import plain
from vitrail.units import percent

TEMPLATE = Path(__file__).parent / "paired.html.jinja"
AT = (1, 5, 10)
SHOT = "zero-shot accuracy"
MOST_CLASSES = 30


@dataclass(frozen=True)
class Asked:
    """A sentence and what it finds first: PNG files, their keys, whether each is one of the
    sentence's own."""

    sentence: str
    pictures: Sequence[bytes]
    keys: Sequence[str]
    right: Sequence[bool]


@dataclass(frozen=True)
class TrainedFacts:
    """A finished training of things that find each other, as far as all pages tell it.

    `lines` of the journal have a loss, `looks` a validation score. `images` are those to learn
    from.
    """

    model: str
    params: int
    data: str
    origin: str
    images: int
    test: int
    steps: int
    batch: int
    lines: Sequence[Mapping[str, Any]]
    looks: Sequence[Mapping[str, Any]]
    findings: Sequence[FindingFacts]
    broken: int
    command: str
    machine: Mapping[str, Any]
    seconds: Mapping[str, float]
    date: str
    run: str

    @property
    def epochs(self) -> float:
        """Return how often each image was seen."""
        return self.steps * self.batch / self.images


@dataclass(frozen=True)
class PairedFacts(TrainedFacts):
    """The same with figures of what is found in both directions.

    `figures` and `chance` are shares in [0, 1] by name, of the test part and of random order;
    `confusion` counts zero-shot answers, a row per true class.
    """

    figures: Mapping[str, float]
    chance: Mapping[str, float]
    classes: Sequence[str]
    confusion: Sequence[Sequence[int]]
    prompts: Sequence[str]
    asked: Sequence[Asked]


@dataclass(frozen=True)
class Tile:
    """A figure at the top of the page: what it is of, its value, and what stands below."""

    name: str
    value: str
    below: str


@dataclass(frozen=True)
class Words:
    """The words of one kind of page: the line above the title, the title, the answer and how it was
    learned, what the items are called, `ways` to search, and what is asked next."""

    kicker: str
    title: str
    answer: str
    how: str
    things: str
    noun: str
    next: str
    ways: Sequence[str] = ()


def page(facts: PairedFacts, words: Words) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    chapters = [
        _retrieval(facts, words), _found(facts), _classes(facts), learning(facts, "recall at 1"),
    ]  # fmt: skip
    return html(facts, words, _tiles(facts, words), chapters)


def html(
    facts: TrainedFacts, words: Words, tiles: Sequence[Tile], chapters: Sequence[Chapter | None]
) -> str:
    """Return a page of such tiles and chapters as HTML text."""
    return filled(
        TEMPLATE, facts=facts, words=words, tiles=tiles,
        chapters=[one for one in chapters if one is not None],
    )  # fmt: skip


def shot(facts: PairedFacts, nouns: str) -> str:
    """Return a sentence on classes that are asked for in words, "" where there are none."""
    if SHOT not in facts.figures:
        return ""
    return (
        f" Asked for {len(facts.classes)} classes in words, {percent(facts.figures[SHOT])} of "
        f"the {nouns} are told rightly (by chance {percent(facts.chance[SHOT])}); no label was "
        "learned from."
    )


def _tiles(facts: PairedFacts, words: Words) -> list[Tile]:
    tiles = [
        Tile(
            way.replace("text", "sentence"),
            percent(facts.figures[f"{way}, recall at 1"]),
            f"first right; {percent(facts.figures[f'{way}, recall at 10'])} among ten",
        )
        for way in words.ways
    ]
    if SHOT in facts.figures:
        tiles.append(
            Tile(SHOT, percent(facts.figures[SHOT]), f"{percent(facts.chance[SHOT])} by chance")
        )
    return tiles


def _retrieval(facts: PairedFacts, words: Words) -> Chapter:
    columns = [Column("asked"), *(Column(f"first {k}" if k > 1 else "first", "number") for k in AT)]
    rows: list[list[str | float]] = []
    for way in words.ways:
        for name, figures in ((way, facts.figures), (f"{way}, by chance", facts.chance)):
            rows.append([name, *(percent(figures[f"{way}, recall at {k}"]) for k in AT)])
    told = (
        "How often a right one is among the first that are found. What several share is "
        "right for each of them."
    )
    return Chapter("Finding each other", [Paragraph(told, soft=True), Table(columns, rows)])


def _found(facts: PairedFacts) -> Chapter | None:
    if not facts.asked:
        return None
    parts: list[Any] = []
    for one in facts.asked:
        cards = [
            Card([(data, key)], ["right" if right else "of another sentence"], Path(key).name)
            for data, key, right in zip(one.pictures, one.keys, one.right, strict=True)
        ]
        parts += [Heading(plain(one.sentence)), Gallery(cards, small=True)]
    return Chapter("What sentences find", parts)


def _classes(facts: PairedFacts) -> Chapter | None:
    if not facts.confusion:
        return None
    prompts = ", ".join(f"“{one.replace('{}', '…')}”" for one in facts.prompts)
    told = f"Each class is the mean of the sentences {prompts} with its name."
    parts: list[Any] = [Paragraph(told, soft=True)]
    if len(facts.classes) <= MOST_CLASSES:
        parts.append(Matrix([plain(name) for name in facts.classes], facts.confusion))
    return Chapter("Classes asked for in words", parts)


def learning(facts: TrainedFacts, figure: str) -> Chapter | None:
    """Return the chapter on how the loss fell and a figure of the validation part rose."""
    left, right = _losses(facts), _rise(facts, figure)
    parts = [
        Figure(drawn, label)
        for drawn, label in ((left, "loss over epochs"), (right, f"{figure} over epochs"))
        if drawn
    ]
    if len(parts) == 2:
        return Chapter("Learning", [Pair([parts[0]], [parts[1]])])
    return Chapter("Learning", parts) if parts else None


def _losses(facts: TrainedFacts) -> str:
    points = [(line["epoch"], line["loss"]) for line in facts.lines if "epoch" in line]
    if len(points) < 2:
        return ""

    def draw(axes: Any) -> None:
        axes.plot(*zip(*points, strict=True), color=canvas.ACCENT, linewidth=1.4)
        axes.set_xlabel("epochs")
        axes.set_ylabel("loss")

    return canvas.svg(draw, "losses", canvas.HALF)


def _rise(facts: TrainedFacts, figure: str) -> str:
    per_step = facts.batch / facts.images
    points = [(line["step"] * per_step, 100 * line["val_score"]) for line in facts.looks]
    if len(points) < 2:
        return ""

    def draw(axes: Any) -> None:
        axes.plot(
            *zip(*points, strict=True), color=canvas.ACCENT, linewidth=1.8, marker="o",
            markersize=3.5, clip_on=False,
        )  # fmt: skip
        axes.margins(y=0.12)
        canvas.within(axes)
        axes.set_xlabel("epochs")
        axes.set_ylabel(f"validation {figure}, %")

    return canvas.svg(draw, "rise", canvas.HALF)
