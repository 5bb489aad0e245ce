"""The table of ways to adapt a backbone: how good each is, what it trains, how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.report.chapter import Chapter, Column, Paragraph, Table
from vitrail.units import count, percent, seconds

HEAD = (
    "way", "trained", "share", "validation", "test accuracy", "95 % interval", "steps", "time",
)  # fmt: skip


@dataclass(frozen=True)
class WayFacts:
    """A way to adapt: `trained` parameters, as a `share` of the backbone's; what came out.

    `validation` is the score that chose, on images of the validation part; `accuracy` is of the
    test images, with the interval from `low` to `high`. All are None where the way was not tried,
    for the reason `why`.
    """

    name: str
    trained: int = 0
    share: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    validation: float | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    won: bool = False
    why: str = ""


def cells(one: WayFacts) -> tuple[str, ...]:
    """Return the cells of a row, in the order of `HEAD`."""
    if one.accuracy is None:
        return (one.name, count(one.trained) if one.trained else "", "", "", one.why, "", "", "")
    return (
        one.name, count(one.trained), percent(one.share, 2), percent(one.validation),
        percent(one.accuracy), f"{percent(one.low)} to {percent(one.high)}", str(one.steps),
        seconds(one.seconds),
    )  # fmt: skip


def chapter(ways: Sequence[WayFacts], base: str, images: int) -> Chapter:
    """Return the chapter of a page, the best way first."""
    columns = [Column(title, "text" if title == "way" else "number") for title in HEAD]
    said = (
        f"Each way starts from {base} and sees the same images. The validation part chose; the "
        f"{images:,} test images were looked at afterwards, by all ways, so that the best of these "
        "figures is not what to expect of new images. Intervals are of one training each and say "
        "how sure a figure is for these many images, not how much another seed would change."
    )
    return Chapter(
        "Ways to adapt",
        [Table(columns, [cells(one) for one in ranked(ways)]), Paragraph(said, soft=True)],
    )


def ranked(ways: Sequence[WayFacts]) -> list[WayFacts]:
    """Return the ways in the order of their validation score, untried ones last."""
    return sorted(ways, key=lambda one: (one.validation is None, -(one.validation or 0.0)))
