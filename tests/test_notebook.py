"""Notebooks: one output that changes in place, and a run that shows itself."""

from __future__ import annotations

import json
import sys
from io import StringIO
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console
from test_fit import runner
from test_report import EVIL, read

from vitrail.data.labels import Labels
from vitrail.jobs.evaluate import Evaluation
from vitrail.run import notebook, view
from vitrail.run.view import View
from vitrail.runs import Run


class Handle:
    """Stands in for IPython's: keeps what was shown, the last one first in mind."""

    def __init__(self):
        self.shown = []

    def update(self, value):
        self.shown.append(value)


@pytest.fixture
def handles(monkeypatch):
    """IPython as a notebook has it; returns the outputs that were asked for."""
    made = []

    def display(value, display_id=False):
        assert display_id is True
        made.append(Handle())
        return made[-1]

    ipython, shown = ModuleType("IPython"), ModuleType("IPython.display")
    vars(ipython)["get_ipython"] = lambda: SimpleNamespace(kernel=object())
    vars(shown).update(display=display, HTML=str)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    return made


def shown(handle):
    return read(f"<html>{handle.shown[-1]}</html>").text


def test_a_fit_changes_one_output_in_place(handles, monkeypatch, capsys):
    monkeypatch.setattr(view, "NOTEBOOK_S", 0.0)
    seen = View()
    (handle,) = handles
    seen.phase("racing 2 candidates")
    runners = [runner(f"a{EVIL}", None, 0), runner("b", None, 1)]
    seen.enter([one.candidate for one in runners])
    seen.step("b-1", 3, 20)
    assert "racing 2 candidates" in shown(handle) and "3/20" in shown(handle)
    assert f"a{EVIL}-0" in shown(handle) and "<script" not in handle.shown[-1]
    seen.update("b-1", status="finalist", accuracy=0.875)
    assert "87.5%" in shown(handle) and "finalist" in shown(handle)
    seen.say(f"warning: [bold]{EVIL}")
    seen.console.print("two\nlines")
    text = shown(handle)
    assert f"warning: [bold]{EVIL}\ntwo\nlines" in text and "87.5%" in text
    assert len(handles) == 1
    assert capsys.readouterr() == ("", "")


def test_steps_do_not_flood_a_notebook(handles):
    seen = View()
    seen.enter([runner("b", None, 1).candidate])
    before = len(handles[0].shown)
    for step in range(1000):
        seen.step("b-1", step, 1000)
    assert len(handles[0].shown) - before < 20


@pytest.mark.parametrize(
    "shell", [None, SimpleNamespace(), SimpleNamespace(kernel=None)],
    ids=["no shell", "a terminal", "no kernel"],
)  # fmt: skip
def test_elsewhere_there_is_no_output(handles, monkeypatch, shell):
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: shell)
    assert notebook.output() is None and not handles


def test_a_console_that_is_given_is_used(handles, monkeypatch):
    file = StringIO()
    View(Console(file=file, width=80)).phase("reading")
    assert not handles and "reading" in file.getvalue()
    monkeypatch.delitem(sys.modules, "IPython")
    assert notebook.output() is None


def result(**changes):
    test = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "n": 100}
    model = {"name": "resnet", "title": f"ResNet {EVIL}", "params": 70_000}
    beside = [{"name": f"always {EVIL!r}", "accuracy": 0.5}]
    return {"test": test, "model": model, "baselines": beside,
            "latency": {"p50_s": 0.0012}} | changes  # fmt: skip


def test_a_run_shows_itself(tmp_path):
    folder = tmp_path / "java script: <b>"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(result()))
    made = Run(folder)._repr_html_()
    text = read(f"<html>{made.replace(' href=', ' data-to=')}</html>").text
    assert f"ResNet {EVIL}" in text and "90.0 %, 95 % interval 80.0 % to 95.0 %" in text
    assert "100 images" in text and f"always {EVIL!r}" in text and "1.2 ms" in text
    assert "<script" not in made and 'java%20script%3A%20%3Cb%3E/report.html"' in made


def test_a_run_of_several_labels_shows_its_own_measure(tmp_path):
    name = "mean average precision"
    test = {"name": name, "mean_average_precision": 0.7, "low": 0.6, "high": 0.8, "n": 30}
    beside = [{"name": "always each label's frequency", "mean_average_precision": 0.2}]
    (tmp_path / "result.json").write_text(json.dumps(result(test=test, baselines=beside)))
    made = Run(tmp_path)._repr_html_()
    assert f"test {name}" in made and "70.0 %" in made and "20.0 %" in made


@pytest.mark.parametrize(
    ("told", "said"),
    [
        # of images and sentences, which have no single figure
        ({"model": {"title": "ViT with sentences", "params": 500}, "steps": 12,
          "test": {"images": 12, "sentences": 1, "text to image, recall at 1": 0.25}},
         ["ViT with sentences", "recall at 1", "25.0 %", "12 images, 1 sentence", "500", "12"]),
        # of a pretraining, which is not tested
        ({"model": {"name": "deit", "title": None, "params": 500}, "looks": [], "steps": 9},
         ["<b>deit</b>", "parameters", "9"]),
        # of lidar scans, whose time is of a whole scan
        ({"model": {"title": "RangeViT", "params": 500}, "scan_s": 0.02, "baselines": [],
          "test": {"name": "mean intersection over union", "mean_intersection_over_union": 0.5,
                   "low": 0.4, "high": 0.6, "n": 1}},
         ["RangeViT", "50.0 %", "1 image", "20 ms"]),
    ],
)  # fmt: skip
def test_runs_of_every_task_show_themselves(tmp_path, told, said):
    (tmp_path / "result.json").write_text(json.dumps(told))
    made = Run(tmp_path)._repr_html_()
    assert all(one in made for one in said) and "report.html" in made


def test_a_run_says_what_it_was_tested_on(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result()))
    (tmp_path / "labels.json").write_text(json.dumps(
        Labels(("a", "b"), (8, 8), 3, (0.5,) * 3, (0.5,) * 3, takes="clips", frames=4).to_json()
    ))  # fmt: skip
    assert "100 clips" in Run(tmp_path)._repr_html_()


def test_an_evaluation_shows_itself(tmp_path):
    made = Evaluation(f"90 % right {EVIL}", {}, 10, tmp_path / "a:b")._repr_html_()
    assert "90 % right &lt;script&gt;" in made and 'a%3Ab/report.html">report</a>' in made


def test_a_run_that_is_not_finished_says_so(tmp_path):
    assert "result.json is missing: finish the run with --resume" in Run(tmp_path)._repr_html_()
