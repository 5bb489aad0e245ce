"""The report: self-contained, escaped, complete, and whole with whatever is missing."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vitrail import attribution
from vitrail.report import canvas, plots, race
from vitrail.report import facts as f
from vitrail.report.card import render_card
from vitrail.report.page import ordered, render
from vitrail.report.scores import CalibrationBin, CalibrationFacts, ClassRow, Mistake, Score
from vitrail.report.timings import LatencyFacts
from vitrail.report.verdict import headline, verdict
from vitrail.units import count, percent, seconds, size

EVIL = '<script>alert("x")</script> & Söhne'


def some_facts(classes=("cat", "dog", EVIL)):
    n = len(classes)
    bins = [CalibrationBin(i / 10, (i + 1) / 10, 10, i / 10 + 0.05, i / 10) for i in range(10)]
    image = np.zeros((28, 28, 1), np.uint8)
    statuses = ("won", "stopped", "over budget", "not tried")
    return f.Facts(
        model=f.ModelFacts("resnet-16", "resnet", 70_000, 5_200_000, (28, 28), 1),
        data=f.DataFacts(
            "photos", "folder photos", classes, {"train": [10] * n, "test": [4] * n},
            findings=[
                f.FindingFacts("leak", "warning", f"1 duplicate {EVIL}", [f"a/{EVIL}.png"]),
                f.FindingFacts("size", "info", "all images are 28x28"),
            ],
            broken=[f.BrokenFile("b/x.jpg", f"is truncated {EVIL}")],
        ),
        command="vitrail fit photos --latency 5ms",
        test=Score(0.9, 0.85, 0.94, 200, 0.89, 0.99, 0.4),
        latency=LatencyFacts(0.0012, 0.0015, 400, threads=2),
        size_bytes=350_000,
        budget=f.BudgetFacts(latency_s=0.005, params=50_000),
        candidates=[
            f.CandidatePoint(
                f"m{i}{EVIL}", ("resnet", "cct")[i % 2], 10**5, 10**6 * (i + 1), 1e-3 * (i + 1),
                None if s == "not tried" else 0.8 + i / 50, 100, s, (28, 28),
            )
            for i, s in enumerate(statuses)
        ],
        curves=[f.CurvePoint(10 * i, i, 2 / (i + 1), 0.1 * i, 2.2 / (i + 1)) for i in range(8)],
        per_class=[ClassRow(c, 4, 0.9, 0.8, 0.85) for c in classes],
        confusion=np.eye(n, dtype=int).tolist(),
        calibration=CalibrationFacts(1.7, 0.1, 0.02, bins, bins),
        mistakes=[Mistake(attribution.png(image), None, EVIL, "cat", 0.99, "a/b.png")],
        export=f.ExportFacts(512, 3e-7, 350_000),
        versions={"torch": "2"}, machine={"cpu": "fast"}, seconds={"race": 100.0}, date="today",
    )  # fmt: skip


class Checker(HTMLParser):
    """Balanced tags, no script, and no address outside the page."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.svgs, self.text = [], [], 0, ""

    def handle_starttag(self, tag, attributes):
        assert tag != "script"
        self.svgs += tag == "svg"
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:", "#")), value
            if name == "id":
                self.ids.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data.replace("\u00a0", " ")


def read(page):
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids))
    return checker


def test_whole_page():
    page = render(some_facts())
    found = read(page)
    assert found.svgs == 5
    for words in (
        "90.0 % of unseen images right, in 1.2 ms each", "95 % interval 85.0 % to 94.0 %",
        "misses the budget (latency 1.2 ms of 5 ms, parameters 70 k of 50 k allowed)",
        "✗ over the budget", "classifies 180 of 200 test images correctly", "b/x.jpg",
        "is truncated", "cat", EVIL,
        "vitrail fit photos --latency 5ms", "512 held-back images",
    ):  # fmt: skip
        assert words in found.text, words
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert "#0" not in re.sub(r"<style>.*?</style>", "", page, count=1, flags=re.S).split("<svg")[1]


def test_names_are_text_everywhere():
    """No markup, no formula of a plot, no colour of a plot, no part of a style."""
    names = (EVIL, "$x^2$", "#010101", 'a" onload="b', "{{ facts }}", "ä" * 200)
    facts = some_facts(names)
    text = read(render(replace(facts, command=EVIL))).text
    assert all(text.count(name) >= 3 for name in names)


def test_budget_kept_and_no_budget():
    kept = replace(some_facts(), budget=f.BudgetFacts(latency_s=0.002, macs=10**7))
    assert "✓ within the budget" in read(render(kept)).text
    assert "keeps the budget" in verdict(kept) and "misses" not in verdict(kept)
    free = replace(kept, budget=f.BudgetFacts())
    assert "budget" not in verdict(free) and "the budget" not in read(render(free)).text


def test_headline_without_test_is_the_name():
    assert headline(replace(some_facts(), test=None)) == "resnet-16"


@pytest.mark.parametrize("n", [2, 24, 60, 200])
def test_few_and_many_classes(n):
    facts = some_facts(tuple(f"class {i}" for i in range(n)))
    counts = np.eye(n, dtype=int) * 3
    counts[0, 1] = 2
    page = render(replace(facts, confusion=counts.tolist()))
    found = read(page)
    assert "class 0 taken for class 1 (2)" in found.text
    assert ('class="matrix' in page) == (n <= 24)
    assert all(f"class {i}" in found.text for i in range(n))
    assert len(page) < 400_000


def test_confusion_map_has_a_cell_for_each_pair():
    counts = np.random.default_rng(0).integers(0, 3, (60, 60))
    drawn = re.findall(r"M(\d+) (\d+)h1v1h-1z", plots.confusion_map(counts.tolist()))
    assert {(int(y), int(x)) for x, y in drawn} == set(zip(*np.nonzero(counts), strict=True))
    assert len(drawn) == (counts > 0).sum()


def candidate(latency_s, accuracy, status="stopped", name="m"):
    return f.CandidatePoint(name, "cct", 1, 1, latency_s, accuracy, 1, status)


def test_front_joins_those_that_nothing_beats():
    points = [(3e-3, 0.9), (1e-3, 0.8), (2e-3, 0.7), (1e-3, 0.6), (4e-3, 0.9), (5e-3, 0.95)]
    best = race.joined([candidate(*point) for point in points])
    assert [(c.latency_s, c.accuracy) for c in best] == [(1e-3, 0.8), (3e-3, 0.9), (5e-3, 0.95)]


def test_front_numbers_agree_with_the_table():
    raced = [
        candidate(2e-3, None, "over budget"), candidate(1e-3, 0.7), candidate(1e-3, 0.8),
        candidate(None, 0.9, "finished"), candidate(2e-3, 0.9, "won"),
    ]  # fmt: skip
    places = ordered(raced)
    assert [c.status for c in places] == ["won", "finished", "stopped", "stopped", "over budget"]
    assert places[2].accuracy == 0.8
    written = set(re.findall(r">(\d+)</text>", race.front(places, None)))
    assert {"1", "3", "4"} <= written  # 2 has no latency, 5 no accuracy
    assert race.front(places[:2], None) == ""


@pytest.mark.parametrize("accuracies", [(0.1, 0.99), (1.0, 1.0), (0.0, 1.0), (0.5, 0.5)])
def test_front_of_any_accuracies(accuracies):
    points = [candidate(1e-3, a) for a in accuracies]
    assert race.front(points, 1e-6).startswith("<svg") and race.front(points, 10.0)


@pytest.mark.parametrize(("limit_s", "anchor"), [(2e-3, "start"), (5e-3, "end")])
def test_the_limit_is_named_inside_the_plot(limit_s, anchor):
    points = [candidate(0.2e-3, 0.9, "won"), candidate(3e-3, 0.7)]
    drawn = race.front(points, limit_s, size=canvas.NARROW)
    (style,) = re.findall(r'<text style="([^"]*)"[^>]*>budget</text>', drawn)
    assert f"text-anchor: {anchor}" in style or (anchor == "start" and "anchor" not in style)


def test_curves_of_a_short_run():
    points = [f.CurvePoint(i, i / 10, 1.0) for i in range(3)]
    assert plots.losses(points) and not plots.rise(points) and not plots.losses(points[:1])
    read(render(replace(some_facts(), curves=points)))


def test_only_what_is_known():
    bare = some_facts()
    bare = f.Facts(bare.model, replace(bare.data, findings=(), broken=()), "vitrail fit x")
    found = read(render(bare))
    assert found.svgs == 0 and "Nothing was found wrong" in found.text
    assert "The race" not in found.text and "mistakes" not in found.text
    assert "vitrail fit x" in render_card(bare)


def test_card_is_markdown_that_escapes():
    card = render_card(some_facts())
    assert "<script>" not in card and "90.0 % (95 % interval" in card and "1.2 ms" in card


@pytest.mark.parametrize(
    ("call", "value", "text"),
    [
        (seconds, 0.0042123, "4.21 ms"), (seconds, 1.3, "1.3 s"), (seconds, 720, "12 min"),
        (seconds, 125, "2 min 5 s"), (seconds, 120, "2 min"),
        (seconds, 104e-6, "104 µs"), (seconds, None, "–"), (count, 1_240_000, "1.24 M"),
        (count, 999, "999"), (count, None, "–"), (percent, 0.9123, "91.2 %"),
        (size, 350_000, "350 kB"), (size, 1_234_567, "1.23 MB"),
    ],
)  # fmt: skip
def test_figures(call, value, text):
    assert call(value) == text


class Corner(nn.Module):
    """Its first logit is the brightness of the upper left quarter, and nothing else."""

    def forward(self, x):
        h, w = x.shape[2] // 2, x.shape[3] // 2
        seen = x[:, :, :h, :w].mean((1, 2, 3))
        return torch.stack([10 * seen, torch.zeros_like(seen)], 1)


@pytest.mark.parametrize(("h", "w"), [(28, 28), (60, 90)])
def test_saliency_finds_what_is_looked_at(h, w):
    image = torch.zeros(3, h, w)
    image[:, : h // 2, : w // 2] = 1
    heat = attribution.saliency(Corner(), image, 0)
    assert heat.shape == (h, w) and heat.max() == 1 and heat.min() >= 0
    inside = heat[: h // 2, : w // 2].sum()
    assert inside > 0.7 * heat.sum()
    assert heat[-h // 4 :, -w // 4 :].max() == 0


def test_pictures():
    image = np.random.default_rng(0).integers(0, 256, (20, 28, 1), dtype=np.uint8)
    for data in (attribution.png(image), attribution.overlay(image, np.ones((20, 28), np.float32))):
        with Image.open(io.BytesIO(data)) as shown:
            assert shown.size == (112, 80) and shown.mode == "RGB"
