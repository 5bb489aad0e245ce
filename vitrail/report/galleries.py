"""Pictures of what deserves a look in the data: duplicates, odd files, suspected labels.

`chapter` draws them on the page, `as_csv` writes the same list for a spreadsheet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from vitrail.report.chapter import Card, Chapter, Fold, Gallery, Paragraph, Part
from vitrail.report.text import cell
from vitrail.units import counted

# Findings that are open at once; the others unfold with a click.
OPEN = 2


@dataclass(frozen=True)
class Suspect:
    """A file to look at: its key, the label it has, and the label that it may deserve.

    `picture` is a thumbnail, PNG or JPEG, None where the file cannot be shown; `note` says what is
    odd, for example "outlier" or "74 % sure".
    """

    key: str
    note: str = ""
    picture: bytes | None = None
    label: str = ""
    suggestion: str = ""


@dataclass(frozen=True)
class Group:
    """Files that belong together, such as copies of one picture; `kind` names what was found.

    Groups with one `caption` in a row stand below it together; `explained` says how the first of
    them were found. The first `shown` files stand on the page, None for all.
    """

    kind: str
    caption: str
    suspects: Sequence[Suspect]
    explained: str = ""
    shown: int | None = None


def chapter(title: str, intro: str, groups: Sequence[Group]) -> Chapter:
    """Return a chapter with a fold for every caption, in it a gallery of the thumbnails of each
    group; the first folds are open."""
    parts: list[Part] = [Paragraph(intro)] if intro else []
    for place, (caption, some) in enumerate(groupby(groups, key=lambda group: group.caption)):
        parts.append(_fold(caption, list(some), opened=place < OPEN))
    return Chapter(title, parts)


def _fold(caption: str, groups: Sequence[Group], *, opened: bool) -> Fold:
    drawn = [[_card(one) for one in group.suspects[: group.shown]] for group in groups]
    total, shown = sum(len(group.suspects) for group in groups), sum(map(len, drawn))
    said = f"{caption} ({counted(total, 'file')}{f', {shown:,} shown' if shown < total else ''})"
    explained = [Paragraph(groups[0].explained, soft=True)] if groups[0].explained else []
    return Fold(said, [*explained, *(Gallery(cards, small=True) for cards in drawn if cards)],
                opened=opened)  # fmt: skip


def _card(one: Suspect) -> Card:
    label = f"{one.label}, perhaps {one.suggestion}" if one.suggestion else one.label
    lines = [line for line in (label, one.note) if line]
    return Card([(one.picture, one.key)] if one.picture else [], lines, one.key)


def as_csv(groups: Sequence[Group]) -> str:
    """Return the same files as comma-separated text: kind, group, path, label, suggestion, note.

    Files of one group share its number. Names that a spreadsheet would compute get an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "group", "path", "label", "suggestion", "note"])
    for number, group in enumerate(groups, 1):
        for one in group.suspects:
            names = map(cell, (one.key, one.label, one.suggestion, one.note))
            writer.writerow([cell(group.kind), number, *names])
    return text.getvalue()
