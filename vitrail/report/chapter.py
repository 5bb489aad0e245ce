"""A chapter of the page: what a task, a method or a search adds without the page knowing it.

Its parts are plain values, drawn in order. Text is escaped when drawn; who wants words in bold
passes `markupsafe.Markup`, for example from `strong`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from markupsafe import Markup

from vitrail.report.text import plain


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `soft` ones are small and grey, for explanations."""

    kind: ClassVar[str] = "paragraph"
    text: str
    soft: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading inside a chapter."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Figure:
    """A picture: the text of an SVG, made by `report.plots`, or the bytes of a PNG.

    `narrow` is another SVG for narrow screens, `label` says to a screen reader what is shown,
    `framed` draws a border and keeps it small.
    """

    kind: ClassVar[str] = "figure"
    drawn: str | bytes
    label: str
    narrow: str = ""
    caption: str = ""
    framed: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table: "text", "number" (to the right), "name" (in fixed width), or "bar",
    whose cells are shares in [0, 1] drawn as bars, left out on narrow screens."""

    title: str
    form: Literal["text", "number", "name", "bar"] = "text"


@dataclass(frozen=True)
class Table:
    """Rows of cells, one for each column."""

    kind: ClassVar[str] = "table"
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | float]]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix with names: `counts` has a row per true class, a column per answer."""

    kind: ClassVar[str] = "matrix"
    names: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Card:
    """One or two pictures (PNG or JPEG, each with a text for screen readers), lines and a key."""

    pictures: Sequence[tuple[bytes, str]]
    lines: Sequence[str] = ()
    key: str = ""


@dataclass(frozen=True)
class Gallery:
    """Cards side by side; `glow` draws the scale of the heat maps among their pictures, from
    its first to its second word. Of `wide` ones fewer stand in a row, whose pictures have lines and
    words."""

    kind: ClassVar[str] = "gallery"
    cards: Sequence[Card]
    small: bool = False
    wide: bool = False
    glow: tuple[str, str] | None = None


@dataclass(frozen=True)
class Fold:
    """Parts that open with a click on their summary."""

    kind: ClassVar[str] = "fold"
    summary: str
    parts: Sequence[Part]
    opened: bool = False


@dataclass(frozen=True)
class Pair:
    """Parts on the left and on the right, below each other where the screen is narrow."""

    kind: ClassVar[str] = "pair"
    left: Sequence[Part]
    right: Sequence[Part]


Part = Paragraph | Heading | Figure | Table | Matrix | Gallery | Fold | Pair


@dataclass(frozen=True)
class Chapter:
    """A title and what stands below it."""

    title: str
    parts: Sequence[Part]


def strong(text: str) -> Markup:
    """Return a text in bold, escaped."""
    return Markup("<strong>{}</strong>").format(plain(text))
