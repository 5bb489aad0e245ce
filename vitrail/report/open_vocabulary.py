"""The page of a network that is asked in words: what it finds of each class, and how it learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.report.chapter import Chapter
from vitrail.report.paired import Tile, TrainedFacts, Words, html, learning
from vitrail.report.scores import Baseline, Score
from vitrail.report.text import plain
from vitrail.units import counted, percent


@dataclass(frozen=True)
class OpenVocabularyFacts(TrainedFacts):
    """A finished training that boxes were asked for in words.

    `score` is of the classes that were `learned`, `apart` are those that were held out and their
    mean average precision, None where there are none; `baselines` answer without looking.
    """

    score: Score
    learned: Sequence[str]
    apart: tuple[Sequence[str], float] | None
    baselines: Sequence[Baseline]
    prompts: Sequence[str]
    pretrained: str | None
    chapters: Sequence[Chapter]

    @property
    def title(self) -> str:
        """Return what was done in a few words."""
        return f"{self.model}, asked in words"

    @property
    def next(self) -> str:
        """Return how the run is asked."""
        return f"vitrail detect IMAGES --weights {self.run} --for {self.learned[0]!r}"


def answer(facts: OpenVocabularyFacts) -> str:
    """Return the outcome in a sentence or two."""
    score = facts.score
    told = (
        f"Asked in words for {counted(len(facts.learned), 'class', 'classes')} that it learned, it "
        f"reaches a mean average precision of {percent(score.accuracy)} (95 % interval "
        f"{percent(score.low)} to {percent(score.high)}) on {counted(facts.test, 'test image')}, "
        f"{percent(score.figures['at overlap 0.5'])} at an overlap of 0.5."
    )
    if facts.apart is not None:
        names, value = facts.apart
        told += (
            f" Of {counted(len(names), 'class', 'classes')} that it never learned it reaches "
            f"{percent(value)}."
        )
    for one in facts.baselines:
        told += f" For comparison, {plain(one.name)}: {percent(one.accuracy)}."
    return told


def how(facts: OpenVocabularyFacts) -> str:
    """Return where the training began, and how classes were asked for."""
    begun = f"Began with {plain(facts.pretrained)}" if facts.pretrained else "Began at random"
    prompts = ", ".join(f"“{plain(one).replace('{}', '…')}”" for one in facts.prompts)
    return f"{begun}; a class is asked for as {prompts}, and in the test by the mean of these"


def render(facts: OpenVocabularyFacts) -> str:
    """Return the page as HTML text, which asks the network for nothing."""
    words = Words(
        "open vocabulary", facts.title, answer(facts), how(facts), "pictures", "image", facts.next
    )
    score = facts.score
    tiles = [
        Tile("average precision", percent(score.accuracy),
             f"{percent(score.low)} to {percent(score.high)}"),
        Tile("at an overlap of 0.5", percent(score.figures["at overlap 0.5"]),
             f"{percent(score.figures['at overlap 0.75'])} at 0.75"),
    ]  # fmt: skip
    if facts.apart is not None:
        names, value = facts.apart
        tiles.append(Tile("held-out classes", percent(value), plain(", ".join(names))))
    chapters = [*facts.chapters, learning(facts, "average precision")]
    return html(facts, words, tiles, chapters)


def card(facts: OpenVocabularyFacts) -> str:
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
        facts.next.replace(f"--weights {facts.run}", "--weights ."),
        "```",
        "",
    ]
    return "\n".join(lines)
