"""The page of two towers: what sentences find, what images are called, how that was learned."""

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
from vitrail.units import counted, percent

TEMPLATE = Path(__file__).parent / "image_text.html.jinja"
WAYS = ("image to text", "text to image")
AT = (1, 5, 10)
SHOT = "zero-shot accuracy"
MOST_CLASSES = 30


@dataclass(frozen=True)
class Asked:
    """A sentence and the images that it finds first: PNG files, their keys, whether each is one of
    the sentence's own."""

    sentence: str
    pictures: Sequence[bytes]
    keys: Sequence[str]
    right: Sequence[bool]


@dataclass(frozen=True)
class ImageTextFacts:
    """A finished training of images and sentences.

    `figures` and `chance` are shares in [0, 1] by name, of the test part and of random order;
    `confusion` counts zero-shot answers, a row per true class; `lines` of the journal have a loss,
    `looks` a validation score.
    """

    model: str
    locked: bool
    pretrained: str | None
    params: int
    data: str
    origin: str
    images: int
    test: int
    sentences: int
    steps: int
    batch: int
    figures: Mapping[str, float]
    chance: Mapping[str, float]
    classes: Sequence[str]
    confusion: Sequence[Sequence[int]]
    prompts: Sequence[str]
    asked: Sequence[Asked]
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

    @property
    def title(self) -> str:
        """Return what was done in a few words."""
        return f"{self.model} with sentences"


def answer(facts: ImageTextFacts) -> str:
    """Return the outcome in a sentence or two."""
    first = [facts.figures[f"{way}, recall at 1"] for way in WAYS]
    told = (
        f"Among {counted(facts.sentences, 'different sentence')}, the first that is found for each "
        f"of {counted(facts.test, 'test image')} is one of its own in {percent(first[0])} of the "
        f"cases; the first image found for a sentence is right in {percent(first[1])}."
    )
    if SHOT in facts.figures:
        told += (
            f" Asked for {len(facts.classes)} classes in words, {percent(facts.figures[SHOT])} of "
            f"the images are told rightly (by chance {percent(facts.chance[SHOT])}); no label was "
            "learned from."
        )
    return told


def how(facts: ImageTextFacts) -> str:
    """Return which towers learned."""
    if facts.locked:
        return f"The image tower is locked at the weights of {plain(facts.pretrained or '')}"
    begun = f"began with {plain(facts.pretrained)}" if facts.pretrained else "began at random"
    return f"Both towers learned; that of images {begun}"


def render(facts: ImageTextFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    chapters = [_retrieval(facts), _found(facts), _classes(facts), _learning(facts)]
    return filled(
        TEMPLATE, facts=facts, answer=answer(facts), how=how(facts),
        chapters=[one for one in chapters if one is not None],
    )  # fmt: skip


def card(facts: ImageTextFacts) -> str:
    """Return the card of the run as Markdown."""
    lines = [
        f"# {plain(facts.title)}",
        "",
        answer(facts),
        "",
        f"{how(facts)}. {counted(facts.steps, 'step')} of {facts.batch} over "
        f"{counted(facts.images, 'image')} of {plain(facts.origin)}.",
        "",
        "```sh",
        "vitrail predict . IMAGES --classes 'a shirt,a bag'",
        "```",
        "",
    ]
    return "\n".join(lines)


def _retrieval(facts: ImageTextFacts) -> Chapter:
    columns = [Column("asked"), *(Column(f"first {k}" if k > 1 else "first", "number") for k in AT)]
    rows: list[list[str | float]] = []
    for way in WAYS:
        for name, figures in ((way, facts.figures), (f"{way}, by chance", facts.chance)):
            rows.append([name, *(percent(figures[f"{way}, recall at {k}"]) for k in AT)])
    told = (
        "How often a right one is among the first that are found. A sentence that several images "
        "share is right for each of them."
    )
    return Chapter("Finding each other", [Paragraph(told, soft=True), Table(columns, rows)])


def _found(facts: ImageTextFacts) -> Chapter | None:
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


def _classes(facts: ImageTextFacts) -> Chapter | None:
    if not facts.confusion:
        return None
    prompts = ", ".join(f"“{one.replace('{}', '…')}”" for one in facts.prompts)
    told = f"Each class is the mean of the sentences {prompts} with its name."
    parts: list[Any] = [Paragraph(told, soft=True)]
    if len(facts.classes) <= MOST_CLASSES:
        parts.append(Matrix([plain(name) for name in facts.classes], facts.confusion))
    return Chapter("Classes asked for in words", parts)


def _learning(facts: ImageTextFacts) -> Chapter | None:
    left, right = _losses(facts), _rise(facts)
    parts = [
        Figure(drawn, label)
        for drawn, label in ((left, "loss over epochs"), (right, "recall over epochs"))
        if drawn
    ]
    if len(parts) == 2:
        return Chapter("Learning", [Pair([parts[0]], [parts[1]])])
    return Chapter("Learning", parts) if parts else None


def _losses(facts: ImageTextFacts) -> str:
    points = [(line["epoch"], line["loss"]) for line in facts.lines if "epoch" in line]
    if len(points) < 2:
        return ""

    def draw(axes: Any) -> None:
        axes.plot(*zip(*points, strict=True), color=canvas.ACCENT, linewidth=1.4)
        axes.set_xlabel("epochs")
        axes.set_ylabel("loss")

    return canvas.svg(draw, "losses", canvas.HALF)


def _rise(facts: ImageTextFacts) -> str:
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
        axes.set_ylabel("validation recall at 1, %")

    return canvas.svg(draw, "rise", canvas.HALF)
