"""The parts of the pages: charts, chapters, galleries, next steps, studies, text from outside."""

from __future__ import annotations

import base64
import csv
import io
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import typer
from test_report import EVIL, candidate, read, some_facts

from vitrail import attribution
from vitrail.cli import app
from vitrail.report import canvas, galleries, plots, race, steps, study, text
from vitrail.report import facts as f
from vitrail.report.card import render_card
from vitrail.report.chapter import Chapter, Column, Figure, Fold, Pair, Paragraph, Table, strong
from vitrail.report.page import render
from vitrail.run.facts import curve_points


def test_the_chart_keeps_the_two_clocks_apart():
    raced = [
        replace(candidate(1e-3, 0.9, "won"), clock=None), candidate(20e-3, 0.8),
        replace(candidate(2e-3, 0.7), clock="exported"), candidate(30e-3, 0.85),
    ]  # fmt: skip
    assert [c.timed for c in raced] == ["exported", "torch", "exported", "torch"]
    drawn = race.front(raced, None)
    assert len(re.findall(r"fill: none; stroke: var\(--series", drawn)) >= 1
    assert "hollow ones in torch" in race.caption(raced)
    alike = [replace(c, clock="exported") for c in raced]
    assert not re.findall(r"fill: none; stroke: var\(--series", race.front(alike, None))
    assert "All were timed as exported." in race.caption(alike)
    page = read(render(replace(some_facts(), candidates=raced))).text
    assert "exported" in page and "in torch" in page


def test_commands_in_backticks_are_code():
    made = Paragraph("ask by `vitrail predict <RUN>`, " + strong("<a>") + " `b`")
    chapter = Chapter("Commands", [Paragraph("`a <b>`\x1b and ` alone"), made])
    page = render(replace(some_facts(), chapters=[chapter]))
    assert r"<code>a &lt;b&gt;</code>\x1b and ` alone" in page
    assert "<strong>&lt;a&gt;</strong> <code>b</code>" in page
    assert "&amp;lt;" not in page


@pytest.mark.parametrize("accuracies", [(1.0, 1.0), (0.5, 1.0), (0.99, 0.995)])
def test_no_accuracy_axis_passes_100(accuracies):
    """So no tick does, either."""
    from matplotlib.figure import Figure as Canvas

    ends = []

    def caught(draw, name, size):
        axes = Canvas().subplots()
        draw(axes)
        ends.append(axes.get_ylim()[1])
        return ""

    points = [candidate(1e-3 * (i + 1), a) for i, a in enumerate(accuracies)]
    curve = [f.CurvePoint(i, i, val_score=a) for i, a in enumerate(accuracies)]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(race, "svg", caught)
        m.setattr(plots, "svg", caught)
        race.front(points, None)
        plots.rise(curve)
        plots.reliability(some_facts().calibration)
    assert len(ends) == 3 and max(ends) <= 100, ends


def test_scores_that_hardly_move_are_not_enlarged():
    seen = []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(plots, "svg", lambda draw, name, size: drawn(draw, seen))
        plots.rise([f.CurvePoint(i, i, val_score=1e-8 * i) for i in range(3)])
        plots.rise([f.CurvePoint(i, i, val_score=0.5 + 1e-8 * i) for i in range(3)])
    (low, high), (below, above) = seen
    assert low == 0 and 0.4 < high < 1.1
    assert above - below == pytest.approx(plots.LEAST_RANGE) and below < 50 < above


def drawn(draw, seen):
    from matplotlib.figure import Figure as Canvas

    axes = Canvas().subplots()
    draw(axes)
    seen.append(axes.get_ylim())
    return ""


def test_a_journal_of_older_runs_tells_the_same_curve():
    """It calls the score of the validation part an accuracy, whatever the task."""
    for word in ("val_score", "val_accuracy"):
        lines = [{"step": 2, "epoch": 1.0, "loss": 2.0}, {"step": 4, word: 0.5, "val_loss": 0.7}]
        assert curve_points(lines) == [
            f.CurvePoint(2, 1.0, 2.0),
            f.CurvePoint(4, 2.0, val_score=0.5, val_loss=0.7),
        ]


def test_logarithmic_ticks_are_written_out():
    def draw(axes):
        canvas.log_ticks(axes, [60, 400], vertical=True)
        canvas.log_ticks(axes, [3, 40_000])

    drawn = canvas.svg(draw, "ticks", canvas.HALF)
    assert {"50", "100", "200", "500", "10,000"} <= set(re.findall(r">([\d,]+)</text>", drawn))
    assert "10^" not in drawn and "\u00d7" not in drawn and "mathdefault" not in drawn


def test_broken_files_are_told_once():
    """With their reasons; a finding about other files stays."""
    facts = some_facts()
    keys = [f"b/{i}.jpg" for i in range(17)]
    data = replace(
        facts.data,
        broken=[f.BrokenFile(key, "is truncated") for key in keys],
        findings=[
            f.FindingFacts("truncated", "error", "17 files are truncated, left out", keys),
            f.FindingFacts("leak", "warning", "3 duplicates", ["c/1.jpg"]),
        ],
    )
    text = read(render(replace(facts, data=data))).text
    assert "17 broken files left out" in text and "17 files are truncated" not in text
    assert text.count("b/3.jpg") == 1 and "3 duplicates" in text


def test_one_of_anything_is_singular():
    facts = some_facts(("cat",))
    one = replace(facts, candidates=facts.candidates[:1])
    text = read(render(one)).text
    assert "1 candidate" in text and "1 candidates" not in text and "1 class" in text
    assert "1 broken file left out" in text and "1 classes" not in text


def test_titles_stand_for_names_which_are_beside_them():
    facts = some_facts()
    titled = replace(
        facts,
        model=replace(facts.model, title="ResNet 16, 0.07 M, 28 px", config={"dims": (16, 32)}),
        candidates=[replace(c, title=f"short {i}") for i, c in enumerate(facts.candidates)],
    )
    page = render(titled)
    text = read(page).text
    assert "ResNet 16, 0.07 M, 28 px" in text and "dims (16, 32)" in text and "short 1" in text
    assert 'title="m1&lt;script' in page and text.count(f"m1{EVIL}") == 1
    assert render_card(titled).startswith("# ResNet 16, 0.07 M, 28 px\n")
    assert "resnet-16" in render_card(titled)


def test_chapters_are_drawn_in_order_and_escaped():
    picture = attribution.png(np.zeros((4, 4, 3), np.uint8))
    parts = [
        Paragraph(EVIL),
        Pair([Figure(picture, "a black square")], [Paragraph(strong(EVIL), soft=True)]),
        Fold(
            "more", [Table([Column("what"), Column("share", "bar")], [(EVIL, 0.25)])], opened=True
        ),
    ]
    page = render(replace(some_facts(), chapters=[Chapter(f"Levels {EVIL}", parts)]))
    found = read(page)
    assert found.text.index("Levels") > found.text.index("The worst mistakes")
    assert found.text.count(EVIL) > read(render(some_facts())).text.count(EVIL) + 3
    assert "width: 25.0%" in page and "<details open><summary>more" in page
    assert "<strong>&lt;script&gt;" in page


def test_another_task_leaves_the_chapters_of_classification_out():
    facts = replace(some_facts(), per_class=(), confusion=None, calibration=None, mistakes=())
    text = read(render(facts)).text
    for title in ("Class by class", "taken for what", "trust a probability", "worst mistakes"):
        assert title not in text


def test_heat_maps_have_a_scale():
    facts = some_facts()
    seen = replace(facts.mistakes[0], overlay=facts.mistakes[0].png, shown="bright where it reads")
    assert 'class="glow"' in render(replace(facts, mistakes=[seen]))
    assert 'class="glow"' not in render(facts)


HIDDEN = "a\x1b]0;pwn\x07\u202egpj\x9b"
SHOWN = r"a\x1b]0;pwn\x07\u202egpj\x9b"


def test_control_characters_reach_neither_page_nor_card():
    facts = some_facts(("cat", HIDDEN))
    facts = replace(
        facts, model=replace(facts.model, name=HIDDEN), command=f"vitrail fit {HIDDEN}",
        data=replace(facts.data, name=HIDDEN, broken=[f.BrokenFile(HIDDEN, HIDDEN)]),
        mistakes=[replace(facts.mistakes[0], truth=HIDDEN, key=HIDDEN)],
    )  # fmt: skip
    for made in (render(facts), render_card(facts)):
        assert not set(made) & set("\x1b\x07\u202e\x9b")
    assert SHOWN in read(render(facts)).text


def test_text_from_outside():
    assert text.plain("ä \u2603 日本 \\n") == "ä \u2603 日本 \\n"
    assert text.plain(HIDDEN) == SHOWN and text.plain("a\nb") == r"a\x0ab"
    assert text.plain("a\nb\x00", lines=True) == "a\nb\\x00"
    assert text.plain("\udcff") == r"\udcff"
    assert text.sentence(" two\n  lines\t\x1b ") == r"two lines \x1b"
    assert [text.cell(v) for v in ("=1+1", "@x", "-a", "+", "a=1", "\t=1")] == [
        "'=1+1", "'@x", "'-a", "'+", "a=1", r"\x09=1",
    ]  # fmt: skip


def test_galleries_of_suspects():
    picture = attribution.png(np.zeros((4, 8, 3), np.uint8))
    groups = [
        galleries.Group("duplicate", "copies", [
            galleries.Suspect("a/1.jpg", "identical", picture, "cat"),
            galleries.Suspect("b/1.jpg", "identical", picture, "dog"),
        ]),
        galleries.Group("label", "labels that may be wrong", [
            galleries.Suspect(f"=x{HIDDEN}", "74 %, \"sure\"", None, "cat", "-dog"),
        ]),
    ]  # fmt: skip
    chapter = galleries.chapter("Worth a look", "Pictures.", groups)
    page = render(replace(some_facts(), chapters=[chapter]))
    found = read(page).text
    assert "copies (2 files)" in found and "labels that may be wrong (1 file)" in found
    assert "cat, perhaps -dog" in found and page.count(galleries_image(picture)) == 2
    fewer = galleries.chapter("Worth a look", "", [replace(groups[0], shown=1), groups[1]])
    page = render(replace(some_facts(), chapters=[fewer]))
    assert "copies (2 files, 1 shown)" in read(page).text
    assert page.count(galleries_image(picture)) == 1
    rows = list(csv.reader(io.StringIO(galleries.as_csv(groups))))
    assert rows[0] == ["kind", "group", "path", "label", "suggestion", "note"]
    assert [row[:3] for row in rows[1:3]] == [
        ["duplicate", "1", "a/1.jpg"],
        ["duplicate", "1", "b/1.jpg"],
    ]
    assert rows[3][2:] == [f"'=x{SHOWN}", "cat", "'-dog", '74 %, "sure"']


def galleries_image(picture):
    return base64.b64encode(picture).decode()


def test_next_steps_are_commands_that_the_command_line_knows():
    facts = replace(
        some_facts(), budget=f.BudgetFacts(latency_s=0.005, time_s=600),
        command="vitrail fit 'my photos' --time 10m --latency=5ms --out runs/one",
    )  # fmt: skip
    found = {step.command for step in steps.steps(facts)}
    longer = "vitrail fit 'my photos' --latency=5ms --time 30m --out runs/one-longer"
    assert longer in found and "vitrail predict runs/one image.jpg" in found
    text = read(render(facts)).text
    assert all(command in text for command in found) and longer in render_card(facts)
    group = typer.main.get_command(app)
    for command in found:
        name, *rest = shlex.split(command)[1:]
        if name in group.commands:
            group.commands[name].make_context(name, rest).close()
    unnamed = replace(facts, command="vitrail train --set model=cvt_13", run="a b")
    assert not steps.longer_run(unnamed)
    assert "vitrail predict 'a b' image.jpg" in {s.command for s in steps.steps(unnamed)}
    assert steps.folder(replace(facts, command="vitrail fit 'x")) == "."


def study_facts(*gaps):
    """A study of three seeds whose arms differ by (difference, half its interval)."""
    arms = [study.ArmFacts("none", "", "resnet", 1, 1, 1e-3, 1.0, [0.8] * 3)]
    for number, (gap, half) in enumerate(gaps):
        found = {"difference": gap, "low": gap - half, "high": gap + half, "clear": abs(gap) > half}
        right = [0.8 + gap] * 3
        arms.append(study.ArmFacts(f"arm{number}", "", "resnet", 1, 1, 1e-3, 1.0, right, **found))
    return study.StudyFacts(
        "s", "A study", "Which?", "photos", "none", (10, 10), (28, 28), 3, 2, {"versions": {}}, 1,
        arms,
    )  # fmt: skip


NONE = "the baseline 'none'"


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ([(0.1, 0.2), (0.2, 0.3)], f"Neither of the two arms differs from {NONE} beyond noise."),
        ([(0.1, 0.2)], f"arm0 does not differ from {NONE} beyond noise."),
        ([(0.1, 0.2)] * 3, f"None of the 3 arms differs from {NONE} beyond noise."),
        (
            [(0.1, 0.05), (0.0, 0.1)],
            f"Better than {NONE} beyond noise: arm0; not told apart from it: the other arm.",
        ),
        ([(-0.1, 0.05)], f"Worse than {NONE} beyond noise: arm0."),
    ],
)
def test_a_study_says_what_its_intervals_show(gaps, said):
    facts = study_facts(*gaps)
    assert study.answer(facts) == said
    page = study.render_study(facts)
    read(page)
    # As many arms are drawn in colour as are said to differ.
    line = r"<path d=\"[^\"]*\" [^>]*style=\"fill: none; stroke: var\(--accent\); stroke-width: 1.6"
    drawn = len(re.findall(line, study.differences(facts, canvas.WIDE, "x")))
    assert drawn == sum(arm.clear for arm in facts.compared)
