"""What deserves a look in the data of a run: suspected labels, outliers, copies, broken files.

Pictures of it stand on the page, all of it in one table, look-at.csv. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from vitrail.data.cache import Pixels
from vitrail.data.gate import Inspection
from vitrail.data.pictures import thumbnails
from vitrail.data.source import Finding
from vitrail.report.chapter import Chapter
from vitrail.report.galleries import Group, Suspect, as_csv, chapter
from vitrail.tasks import suspects
from vitrail.tasks.baselines import SIDE, small
from vitrail.tasks.suspects import Suspicion, View
from vitrail.units import percent

# Images that are compared with each other, evenly from all parts, where time allows.
LOOKED = 5000
# Files of each kind in the table, and how many of them are drawn.
LISTED = 500
LABELS_DRAWN, OUTLIERS_DRAWN = 40, 16
GROUPS_DRAWN, MEMBERS_DRAWN = 6, 4
_WORST = ("error", "warning", "info")
_INTRO = (
    "What may be wrong in the data, for a human to decide; nothing was changed. All of it is in "
    "look-at.csv."
)

Embed = Callable[[Pixels], np.ndarray]


@dataclass(frozen=True, eq=False)
class Looks:
    """The chapter of the page, None where nothing was found, and the table."""

    chapter: Chapter | None
    table: str


def looks(found: Inspection, groups: Sequence[Group]) -> Looks:
    """Return the groups with those of copies and of broken files, and draw the first of each."""
    drawn = _drawn(found, [*groups, *_copies(found)])
    broken = [Suspect(one.key, one.reason) for one in found.broken]
    listed = [*drawn, *([Group("broken", "files left out", broken)] if broken else [])]
    shown = chapter("Worth a look", _INTRO, drawn) if drawn else None
    return Looks(shown, as_csv(listed))


def sampled(parts: Mapping[str, Pixels], most: int) -> dict[str, Pixels]:
    """Return up to `most` images, evenly from all parts."""
    total = sum(map(len, parts.values()))
    if total <= most:
        return dict(parts)
    return {name: part.first(max(1, most * len(part) // total)) for name, part in parts.items()}


def of_fit(
    found: Inspection, some: Mapping[str, Pixels], features: Mapping[str, np.ndarray]
) -> list[Group]:
    """Return suspected labels and outliers among some "train", "val" and "test" images.

    `features` (N, D) are what the network sees in each part. Labels are held against models that
    never saw them, on small pixels or on those features, whichever tells the images apart better
    that the network did not learn from. No label is suspected where neither tells them apart, and
    several labels an image are not judged.
    """
    keys = [key for part in some.values() for key in part.keys]
    seen = View("the network's features", suspects.scaled(np.concatenate([*features.values()])))
    if found.source.several:
        return [_alone(keys, seen, found)]
    labels = np.concatenate([part.labels for part in some.values()])
    total, what = len(found), found.source.nouns
    said = f" Of {total:,} {what} {len(keys):,} were looked at." if len(keys) < total else ""
    judged = np.concatenate([np.full(len(p), name != "train") for name, p in some.items()])
    pixels = np.concatenate([small(part.take(np.arange(len(part)))) for part in some.values()])
    views = [View(f"{SIDE}x{SIDE} pixels", suspects.scaled(pixels)), seen]
    twins = dict(zip((item.key for item in found.items), found.twins.tolist(), strict=True))
    view, shares, right = suspects.clearest(
        views, labels, np.array([twins[key] for key in keys]), judged=judged,
        classes=len(found.classes),
    )  # fmt: skip
    explained = (
        f"A kernel model on {view.name} was asked about {what} that it had not learned from (out "
        f"of fold). For {percent(right)} of the held-back ones it names the label that they have, "
        f"so some of these {what} are hard rather than wrongly labelled.{said}"
    )
    suspected = suspects.suspects(shares, labels) if suspects.tells(right, labels[judged]) else []
    return [_labels(keys, suspected, labels, found, explained), _alone(keys, view, found)]


def of_evaluation(
    found: Inspection, images: Pixels, shares: np.ndarray | None, embed: Embed
) -> list[Group]:
    """Return suspected labels and outliers among images that the run is judged by.

    `shares` (N, classes) are the run's own answers, None where an image has several labels.
    """
    some = images.first(LOOKED)
    groups = [_alone(some.keys, View("", suspects.scaled(embed(some))), found)]
    if shares is None:
        return groups
    explained = (
        "The run thinks of another class, and is surer of it than usual. Of "
        f"{found.source.nouns} that it learned from it knows the labels, so it finds hardly any "
        "of theirs."
    )
    suspected = suspects.suspects(shares, images.labels)
    return [_labels(images.keys, suspected, images.labels, found, explained), *groups]


def _labels(
    keys: Sequence[str],
    suspected: Sequence[Suspicion],
    labels: np.ndarray,
    found: Inspection,
    explained: str,
) -> Group:
    listed = [
        Suspect(
            keys[one.row],
            f"{percent(one.share, 0)} sure",
            label=found.classes[labels[one.row]],
            suggestion=found.classes[one.guess],
        )
        for one in suspected[:LISTED]
    ]
    return Group("label", "labels that may be wrong, the surest first", listed, explained)


def _alone(keys: Sequence[str], view: View, found: Inspection) -> Group:
    named = _names(found)
    listed = [
        Suspect(keys[row], f"{times:.1f} times as far off as usual", label=named[keys[row]])
        for row, times in suspects.outliers(view.features)[:LISTED]
    ]
    return Group("outlier", f"{found.source.nouns} like no other, the farthest first", listed)


def _copies(found: Inspection) -> list[Group]:
    """Return groups of copies, the worst kind first."""
    named, groups = _names(found), []
    for finding in sorted(found.findings, key=_worst):
        groups += [
            Group(finding.kind, finding.message, [Suspect(key, label=named[key]) for key in keys])
            for keys in finding.groups
        ]
    return groups


def _worst(finding: Finding) -> int:
    return _WORST.index(finding.severity)


def _names(found: Inspection) -> dict[str, str]:
    classes = found.classes
    return {item.key: "; ".join(classes[label] for label in item.labels) for item in found.items}


def _drawn(found: Inspection, groups: Sequence[Group]) -> list[Group]:
    """Return the groups that have files, with pictures of the first files of each kind."""
    chosen: list[list[str]] = []
    for _, some in groupby(groups, key=lambda group: group.caption):
        for place, group in enumerate(some):
            most = {"label": LABELS_DRAWN, "outlier": OUTLIERS_DRAWN}.get(
                group.kind, MEMBERS_DRAWN if place < GROUPS_DRAWN else 0
            )
            chosen.append([one.key for one in group.suspects[:most]])
    pictures = thumbnails(found.source, [key for keys in chosen for key in keys])
    return [
        replace(
            group,
            suspects=[replace(one, picture=pictures.get(one.key)) for one in group.suspects],
            shown=len(keys),
        )
        for group, keys in zip(groups, chosen, strict=True)
        if group.suspects
    ]
