"""The page of towers of clips, sounds and sentences: what finds what, and how that was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.report.paired import PairedFacts, Words, page, shot
from vitrail.report.text import plain
from vitrail.units import counted, percent

BOTH = (("text", "sentence"), ("sound", "sound"))


@dataclass(frozen=True)
class MultiModalFacts(PairedFacts):
    """A finished training of clips with sounds and sentences.

    `towers` are "video", "audio", "text"; with `one_encoder` they share theirs. `keep` is the share
    of patches that are seen in training; the test part has so many `sounds`, heard at `rate` hertz,
    and `sentences`.
    """

    towers: Sequence[str]
    one_encoder: bool
    keep: float
    rate: int
    sounds: int
    sentences: int

    @property
    def beside(self) -> str:
        """Return what clips are learned with."""
        names = {"audio": "sounds", "text": "sentences"}
        return " and ".join(names[kind] for kind in self.towers if kind in names)

    @property
    def title(self) -> str:
        """Return what was done in a few words."""
        return f"{self.model} with {self.beside}"

    @property
    def ways(self) -> list[str]:
        """Return in which directions is searched."""
        return [
            way
            for name, _ in BOTH
            for way in (f"{name} to clip", f"clip to {name}")
            if f"{way}, recall at 1" in self.figures
        ]


def answer(facts: MultiModalFacts) -> str:
    """Return the outcome in a sentence or two."""
    told = [
        f"asked for by a {called}, the first clip that is found is right in "
        f"{percent(facts.figures[f'{name} to clip, recall at 1'])} of the cases (by chance "
        f"{percent(facts.chance[f'{name} to clip, recall at 1'])})"
        for name, called in BOTH
        if f"{name} to clip" in facts.ways
    ]
    if not told:
        return "No test clip has a sound or a sentence to be asked for by."
    said = f"Among {counted(facts.test, 'test clip')}, {'; '.join(told)}."
    return said + shot(facts, "clips")


def how(facts: MultiModalFacts) -> str:
    """Return what learned, and from what."""
    encoders = "One encoder reads all" if facts.one_encoder else "Each has an encoder of its own"
    kept = f"; of clips and sounds {percent(facts.keep)} of the patches are seen in training"
    heard = f"; sounds are heard at {facts.rate:,} Hz" if "audio" in facts.towers else ""
    return f"{encoders}{kept if facts.keep < 1 else ''}{heard}"


def render(facts: MultiModalFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    words = Words(
        "clips, sounds and sentences", facts.title, answer(facts), how(facts), "clips", "clip",
        "\n".join(commands(facts, facts.run)), facts.ways,
    )  # fmt: skip
    return page(facts, words)


def next_of(run: str) -> str:
    """Return the command that learns classes of clips from such a run."""
    return (
        f"vitrail train --set task=video --set model={run}/recipe.json --set pretrained={run} "
        "--set data=CLIPS"
    )


def commands(facts: MultiModalFacts, run: str) -> list[str]:
    """Return what can be done with such a run, as its towers allow."""
    asked = f"vitrail predict {run} CLIPS --classes 'a dog,a cat'"
    heard = f"vitrail fit SOUNDS --task audio --pretrained {run}"
    return [
        *([asked] if "text" in facts.towers else []),
        next_of(run),
        *([heard] if "audio" in facts.towers else []),
    ]


def card(facts: MultiModalFacts) -> str:
    """Return the card of the run as Markdown."""
    lines = [
        f"# {plain(facts.title)}",
        "",
        answer(facts),
        "",
        f"{how(facts)}. {counted(facts.steps, 'step')} of {facts.batch} over "
        f"{counted(facts.images, 'clip')} of {plain(facts.origin)}.",
        "",
        "```sh",
        *commands(facts, "."),
        "```",
        "",
    ]
    return "\n".join(lines)
