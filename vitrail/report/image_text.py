"""The page of two towers: what sentences find, what images are called, how that was learned."""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.report.paired import PairedFacts, Words, page, shot
from vitrail.report.text import plain
from vitrail.units import counted, percent

WAYS = ("image to text", "text to image")


@dataclass(frozen=True)
class ImageTextFacts(PairedFacts):
    """A finished training of images and sentences, of which the test part has `sentences`."""

    locked: bool
    pretrained: str | None
    sentences: int

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
    return told + shot(facts, "images")


def how(facts: ImageTextFacts) -> str:
    """Return which towers learned."""
    if facts.locked:
        return f"The image tower is locked at the weights of {plain(facts.pretrained or '')}"
    begun = f"began with {plain(facts.pretrained)}" if facts.pretrained else "began at random"
    return f"Both towers learned; that of images {begun}"


def render(facts: ImageTextFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    words = Words(
        "image and text", facts.title, answer(facts), how(facts), "pictures", "image",
        f"vitrail predict {facts.run} IMAGES --classes 'a shirt,a bag'", WAYS,
    )  # fmt: skip
    return page(facts, words)


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
