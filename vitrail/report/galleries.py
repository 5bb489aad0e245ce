"""Pictures of what deserves a look in the data: duplicates, odd files, suspected labels.

`chapter` draws them on the page, `as_csv` writes the same list for a spreadsheet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.report.chapter import Card, Chapter, Fold, Gallery, Paragraph, Part
from vitrail.report.text import cell
from vitrail.units import counted

# Groups that are open at once; the others unfold with a click.
OPEN = 6


@dataclass(frozen=True)
class Suspect:
    """A file to look at: its key, the label it has, and the label that it may deserve.

    `png` is a thumbnail, None where the file cannot be shown; `note` says what is odd, for
    example "outlier" or "74 % cat".
    """

    key: str
    note: str = ""
    png: bytes | None = None
    label: str = ""
    suggestion: str = ""


@dataclass(frozen=True)
class Group:
    """Files that belong together, such as copies of one picture; `kind` names what was found."""

    kind: str
    caption: str
    suspects: Sequence[Suspect]


def chapter(title: str, intro: str, groups: Sequence[Group]) -> Chapter:
    """Return a chapter with a gallery of thumbnails for every group, the first ones open."""
    parts: list[Part] = [Paragraph(intro)] if intro else []
    for place, group in enumerate(groups):
        said = f"{group.caption} ({counted(len(group.suspects), 'file')})"
        cards = [_card(one) for one in group.suspects]
        parts.append(Fold(said, [Gallery(cards, small=True)], opened=place < OPEN))
    return Chapter(title, parts)


def _card(one: Suspect) -> Card:
    label = f"{one.label}, perhaps {one.suggestion}" if one.suggestion else one.label
    lines = [line for line in (label, one.note) if line]
    return Card([(one.png, one.key)] if one.png else [], lines, one.key)


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
