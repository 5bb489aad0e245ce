"""The chapters of a classification: class by class, confusions, calibration, worst mistakes.

Each is made from plain values; a task that has no classes leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from vitrail.data.source import NOUNS
from vitrail.report import hardest, plots
from vitrail.report.chapter import (
    Card,
    Chapter,
    Column,
    Figure,
    Gallery,
    Matrix,
    Pair,
    Paragraph,
    Part,
    Table,
    strong,
)
from vitrail.report.facts import Facts
from vitrail.report.scores import CalibrationFacts, ClassRow, Mistake, RefusalFacts, Score
from vitrail.units import counted, percent

# Up to here the confusion matrix is a table with names and numbers, above it a picture.
TABLE_CLASSES = 24
PAIRS = 5
# What one of the data is called, and several.
Words = tuple[str, str]
USUAL = NOUNS["images"]
_LOOK = (
    " Where brightness, contrast, edges and colours are unlike those of all training images, "
    "`vitrail predict` says so."
)


def chapters(facts: Facts) -> list[Chapter]:
    """Return the chapters that the facts allow, in the page's order."""
    found = []
    if facts.per_class:
        found.append(class_by_class(facts.per_class, facts.test, facts.data.items))
    if facts.confusion:
        found.append(confusions(facts.data.classes, facts.confusion, facts.data.items))
    if facts.calibration:
        found.append(trust(facts.calibration, facts.refusal, (facts.data.item, facts.data.items)))
    if facts.mistakes:
        found.append(mistakes(facts.mistakes, facts.data.items))
    return found


def class_by_class(
    rows: Sequence[ClassRow], test: Score | None = None, items: str = "images"
) -> Chapter:
    """Return recall, precision and F1 of each class, the hardest first."""
    parts: list[Part] = []
    if test and test.balanced is not None:
        text = f"Balanced accuracy (mean recall over classes) is {percent(test.balanced)}"
        if test.top5 is not None and len(rows) > 5:
            text += f"; the true class is among the first five answers in {percent(test.top5)}"
        parts.append(Paragraph(f"{text}."))
    rows = sorted(rows, key=lambda row: row.f1)
    parts += hardest.tables(rows, lambda some: _class_table(some, items), ("class", "classes"))
    return Chapter("Class by class", parts)


def _class_table(rows: Sequence[ClassRow], items: str) -> Table:
    columns = [
        Column("class"), Column(items, "number"), Column("recall", "number"), Column("", "bar"),
        Column("precision", "number"), Column("F1", "number"),
    ]  # fmt: skip
    return Table(
        columns,
        [
            (r.name, f"{r.n:,}", percent(r.recall), r.recall, percent(r.precision), percent(r.f1))
            for r in rows
        ],
    )


def confusions(
    names: Sequence[str], counts: Sequence[Sequence[int]], items: str = "images"
) -> Chapter:
    """Return the confusion matrix, `counts` with a row per true class, and its worst pairs."""
    parts = []
    if pairs := worst(names, counts):
        told = [
            Markup("{} taken for {} ({})").format(strong(truth), strong(answer), n)
            for truth, answer, n in pairs
        ]
        parts.append(Paragraph(Markup("Most often confused: {}.").format(Markup(", ").join(told))))
    table = len(counts) <= TABLE_CLASSES
    if table:
        parts.append(Matrix(names, counts))
        note = f"Rows are true classes, columns answers, numbers test {items}"
    else:
        parts.append(Figure(plots.confusion_map(counts), "confusion matrix", framed=True))
        note = "Rows are true classes, columns answers, both in the order of the class names"
    parts.append(
        Paragraph(f"{note}; the stronger the shade, the larger the share of the row.", True)
    )
    return Chapter("What is taken for what", parts)


def worst(names: Sequence[str], counts: Sequence[Sequence[int]]) -> list[tuple[str, str, int]]:
    """Return the pairs of classes that are confused most often: truth, answer, images."""
    pairs = [
        (names[i], names[j], n)
        for i, row in enumerate(counts)
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:PAIRS]


def trust(
    found: CalibrationFacts, refusal: RefusalFacts | None = None, words: Words = USUAL
) -> Chapter:
    """Return how far a stated probability can be trusted, with a reliability diagram, and from
    which one on there is an answer."""
    items = words[1]
    said = [
        Paragraph(
            f"On average a stated probability is {percent(found.ece_after)} away from how often it "
            f"comes true; before calibration it was {percent(found.ece_before)} (expected "
            "calibration error)."
        ),
        Paragraph(
            f"Logits are divided by the temperature {found.temperature:.2f}, found on the "
            f"validation {items}. On the dotted line, answers given with 80\u00a0% are right in "
            "80\u00a0% of cases; above it the model is too modest, below it too sure. The larger "
            f"a point, the more {items}.",
            soft=True,
        ),
    ]
    drawn = plots.reliability(found)
    label = "how often the model is right over how sure it is"
    parts = [Pair([Figure(drawn, label)], said)] if drawn else said
    return Chapter("How far to trust a probability", [*parts, *refused(refusal, words)])


def refused(found: RefusalFacts | None, words: Words = USUAL) -> list[Paragraph]:
    """Return what "none of these" means, and what it cannot know."""
    (item, items), pictures = words, words == USUAL
    if found is None:
        return []
    told = ""
    if found.unknown is not None:
        told = (
            f" Of {items} of a class that it does not know about {percent(found.unknown, 0)} may "
            "be told so: each class in turn was left out of a kernel model on the network\u2019s "
            "features, and the mean was taken."
        )
    return [
        Paragraph(
            f"Below a probability of {found.threshold:.2f} `vitrail predict` answers \u201cnone of "
            f"these\u201d. That takes the answer from {percent(found.known)} of "
            f"{counted(found.n, f'test {item}', f'test {items}')}.{told}"
        ),
        Paragraph(
            f"The threshold keeps 99\u00a0% of the validation {items}. It cannot know all that is "
            f"unknown: a class much like one of these gets its name, and "
            f"{'a picture' if pictures else 'what is'} of another kind altogether may get any "
            f"probability.{_LOOK if pictures else ''}",
            soft=True,
        ),
    ]


def mistakes(found: Sequence[Mistake], items: str = "images") -> Chapter:
    """Return a gallery of the test items that the model got wrong while it was surest."""
    shown = next((m.shown for m in found if m.overlay and m.shown), "")
    text = f"Test {items} that the model got wrong while it was surest."
    if shown:
        text += f" Beside each, what it looked at: {shown}."
    glow = ("least", "most") if any(m.overlay for m in found) else None
    return Chapter(
        "The worst mistakes", [Paragraph(text), Gallery([_mistake(m) for m in found], glow=glow)]
    )


def _mistake(m: Mistake) -> Card:
    pictures = [(m.png, m.truth)]
    if m.overlay:
        pictures.append((m.overlay, "what the model looked at"))
    lines = [
        strong(m.truth),
        Markup('<span class="soft">taken for</span> <span class="bad">{}</span>').format(
            strong(m.guess)
        ),
        Markup('<span class="soft">{} sure</span>').format(percent(m.confidence, 0)),
    ]
    return Card(pictures, lines, m.key)
