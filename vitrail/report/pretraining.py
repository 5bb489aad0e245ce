"""The page of a pretraining: what its features know, drawn, and how they came to it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.report import canvas
from vitrail.report.chapter import Card, Chapter, Figure, Gallery, Pair, Paragraph
from vitrail.report.facts import FindingFacts
from vitrail.report.page import filled
from vitrail.report.text import plain
from vitrail.units import counted, percent

TEMPLATE = Path(__file__).parent / "pretraining.html.jinja"
WAYS = {
    "sit": "SiT: hidden groups of pixels are painted again, and two views of a picture are known "
    "for one (arXiv 2104.03602)",
    "attmask": "AttMask: a teacher's attention chooses the patches that its student does not see "
    "(arXiv 2203.12719)",
    "dino": "DINO: views of a picture are told as a slow average of the network tells them (arXiv "
    "2104.14294)",
    "ibot": "iBOT: DINO, and what the teacher says of hidden blocks of patches (arXiv 2111.07832)",
    "mae": "MAE: a quarter of the patches is seen, a decoder paints the rest (arXiv 2111.06377)",
}


@dataclass(frozen=True)
class Neighbours:
    """A picture and those most like it: PNG files, their keys, and their classes where known."""

    pictures: Sequence[bytes]
    keys: Sequence[str]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class PretrainingFacts:
    """A finished pretraining.

    `lines` are the journal's with a loss, `looks` have step, knn and linear, shares in [0, 1] of
    the `held` images; `map` has a point for each image drawn, `labels` its class; `attention`
    pairs of pictures with the name of each.
    """

    method: str
    data: str
    origin: str
    images: int
    held: int
    model: str
    params: int
    macs: int
    image: tuple[int, int]
    steps: int
    batch: int
    lines: Sequence[Mapping[str, Any]]
    looks: Sequence[Mapping[str, Any]]
    classes: Sequence[str]
    map: Sequence[tuple[float, float]]
    labels: Sequence[int]
    neighbours: Sequence[Neighbours]
    attention: Sequence[tuple[bytes, bytes, str]]
    findings: Sequence[FindingFacts]
    broken: int
    command: str
    machine: Mapping[str, Any]
    seconds: Mapping[str, float]
    date: str
    run: str

    @property
    def epochs(self) -> float:
        """Return how often each picture was seen."""
        return self.steps * self.batch / self.images

    @property
    def title(self) -> str:
        """Return what was done in a few words."""
        return f"{self.model}, pretrained on {counted(self.images, 'picture')}"


def answer(facts: PretrainingFacts) -> str:
    """Return the outcome in a sentence or two."""
    if not facts.looks:
        return (
            "No classes are known, so no figure says how good the features are: look at the "
            "neighbours below."
        )
    first, last = facts.looks[0], facts.looks[-1]
    return (
        f"Of {counted(facts.held, 'image')} that were held back, nearest neighbours name "
        f"{percent(last['knn'])} rightly and a linear model on the features "
        f"{percent(last['linear'])}; with random weights these were {percent(first['knn'])} and "
        f"{percent(first['linear'])}."
    )


def render(facts: PretrainingFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    chapters = [_learning(facts), _map(facts), _alike(facts), _looked(facts)]
    return filled(
        TEMPLATE, facts=facts, answer=answer(facts), way=WAYS[facts.method],
        chapters=[one for one in chapters if one is not None],
    )  # fmt: skip


def card(facts: PretrainingFacts) -> str:
    """Return the card of the weights as Markdown."""
    lines = [
        f"# {plain(facts.title)}",
        "",
        answer(facts),
        "",
        f"Learned without labels by {WAYS[facts.method]}, {facts.epochs:.3g} epochs over "
        f"{plain(facts.origin)}.",
        "",
        "```sh",
        "vitrail fit DATA --pretrained .    # start from these weights",
        "vitrail probe . DATA --shots 1,5   # what the features tell with few labels",
        "```",
        "",
    ]
    return "\n".join(lines)


def _learning(facts: PretrainingFacts) -> Chapter | None:
    left = [Figure(drawn, "loss over epochs")] if (drawn := losses(facts)) else []
    right = (
        [Figure(drawn, "k-NN and linear accuracy over epochs")] if (drawn := rise(facts)) else []
    )
    if not left and not right:
        return None
    parts = [Pair(left, right)] if left and right else [*left, *right]
    return Chapter("Learning", parts)


def losses(facts: PretrainingFacts) -> str:
    """Draw the loss and its terms over epochs."""
    known = [line for line in facts.lines if line.get("epoch") is not None]
    usual = ("step", "epoch", "loss", "lr", "samples_per_s", "knn", "linear")
    terms = sorted({name for line in known for name in line} - set(usual))
    if len(known) < 2:
        return ""

    def draw(axes: Any) -> None:
        colours = itertools.cycle(canvas.SERIES)
        for name in terms if len(terms) > 1 else ["loss"]:
            points = [(line["epoch"], line[name]) for line in known if name in line]
            axes.plot(*zip(*points, strict=True), color=next(colours), linewidth=1.4, label=name)
        axes.set_xlabel("epochs")
        axes.set_ylabel("loss")
        canvas.legend(axes, columns=3)

    return canvas.svg(draw, "losses", canvas.HALF)


def rise(facts: PretrainingFacts) -> str:
    """Draw how often neighbours and a linear model are right over epochs."""
    if len(facts.looks) < 2:
        return ""
    per_step = facts.batch / facts.images

    def draw(axes: Any) -> None:
        kinds = (("knn", canvas.ACCENT, "nearest neighbours"), ("linear", canvas.SECOND, "linear"))
        for name, colour, label in kinds:
            at = [(line["step"] * per_step, 100 * line[name]) for line in facts.looks]
            axes.plot(
                *zip(*at, strict=True), color=colour, linewidth=1.8, marker="o", markersize=3.5,
                label=label, clip_on=False,
            )  # fmt: skip
        axes.margins(y=0.12)
        canvas.within(axes)
        axes.set_xlabel("epochs")
        axes.set_ylabel("validation accuracy, %")
        canvas.legend(axes, columns=2)

    return canvas.svg(draw, "rise", canvas.HALF)


def _map(facts: PretrainingFacts) -> Chapter | None:
    if len(facts.map) < 3:
        return None
    drawn = {
        name: canvas.svg(lambda axes: _points(axes, facts), f"map-{name}", size)
        for name, size in (("wide", canvas.WIDE), ("narrow", canvas.NARROW))
    }
    of = "validation images" if facts.labels else "pictures"
    told = f"{len(facts.map):,} {of} by the two largest principal components of their features"
    told += ", scaled alike" + (
        ". Colours and shapes are classes, which were not learned from." if facts.labels else "."
    )
    figure = Figure(drawn["wide"], "map of the features", narrow=drawn["narrow"], caption=told)
    return Chapter("A map of the features", [figure])


def _points(axes: Any, facts: PretrainingFacts) -> None:
    shown = list(range(len(facts.classes))) if 0 < len(facts.classes) <= 16 else []
    for label in shown or [None]:
        points = [at for i, at in enumerate(facts.map) if label is None or facts.labels[i] == label]
        if not points:
            continue
        number = label or 0
        axes.scatter(
            *zip(*points, strict=True), s=13, linewidths=0, alpha=0.7,
            color=canvas.SERIES[number % len(canvas.SERIES)],
            marker=canvas.SHAPES[(number + number // len(canvas.SERIES)) % len(canvas.SHAPES)],
            label=None if label is None else plain(facts.classes[label])[:24],
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    canvas.legend(axes, columns=4)


def _alike(facts: PretrainingFacts) -> Chapter | None:
    if not facts.neighbours:
        return None
    told = (
        "Each row begins with a picture, and goes on with those whose features are most like its."
    )
    if facts.classes:
        told += " Below each is its class, which was not learned from."
    rows = [
        Gallery(
            [
                Card([(data, key)], [name] if name else [], "" if name else Path(key).name)
                for data, key, name in zip(
                    one.pictures, one.keys, one.names or [""] * len(one.keys), strict=True
                )
            ],
            small=True,
        )
        for one in facts.neighbours
    ]
    return Chapter("Pictures that look alike to it", [Paragraph(told, soft=True), *rows])


def _looked(facts: PretrainingFacts) -> Chapter | None:
    if not facts.attention:
        return None
    cards = [Card([(one, key), (heat, f"attention on {key}")], [], key)
             for one, heat, key in facts.attention]  # fmt: skip
    told = "What the class token reads in the last block, the mean over heads."
    return Chapter(
        "Where it looks",
        [Paragraph(told, soft=True), Gallery(cards, glow=("least", "most"))],
    )
