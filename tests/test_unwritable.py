"""Places that cannot be written are told before anything that takes time, by every command."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image
from test_cli import refused
from test_evaluate import drawn, run

from vitrail import bench
from vitrail.bench import growth
from vitrail.bench.contests import Settings
from vitrail.errors import BenchError, RunError
from vitrail.jobs import evaluate as evaluating
from vitrail.jobs import masks
from vitrail.jobs.detect import Asked, detect
from vitrail.run.folder import RunFolder

__all__ = ["run"]


@pytest.fixture
def blocked(tmp_path):
    """A folder that cannot be made, since a file stands in its way."""
    (tmp_path / "file").write_text("precious")
    return tmp_path / "file" / "out"


def never(*_, **__):
    raise AssertionError("this takes time, and what it makes has no place")


@pytest.mark.parametrize("what", ["file", "link", "dangling"])
def test_an_evaluation_without_a_place_reads_no_image(what, run, tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    if what == "link":
        precious.write_text("precious")
    if what == "file":
        (run / "evaluations").write_text("precious")
    else:
        os.symlink(precious, run / "evaluations")
    monkeypatch.setattr(evaluating, "inspect", never)
    with pytest.raises(RunError, match="evaluations cannot be written"):
        evaluating.evaluate(run, drawn(tmp_path / "photos", ["dog", "cat", "cow"]))
    assert not precious.exists() or precious.read_text() == "precious"


def test_a_run_without_evaluations_has_no_folder_of_them_before_there_is_one(run):
    assert RunFolder.open(run).evaluations() == run / "evaluations"
    assert not (run / "evaluations").exists()


def test_masks_and_boxes_are_not_computed_for_nowhere(blocked):
    with pytest.raises(RunError, match=r"folder .*out cannot be made \(Not a directory\)"):
        masks.check_out(blocked)
    with pytest.raises(RunError, match=r"folder .*out cannot be made \(Not a directory\)"):
        detect(None, ["a.png"], Asked(("cat",)), out=blocked)  # pyright: ignore


def test_a_picture_of_an_answer_is_not_drawn_for_nowhere(run, blocked, tmp_path, capsys):
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "a.png")
    said = refused(capsys, "explain", str(run), str(tmp_path / "a.png"), "--out", str(blocked))
    assert "the picture in" in said and "cannot be made (Not a directory)" in said


def test_nothing_is_measured_for_nowhere(blocked, monkeypatch):
    monkeypatch.setattr(bench, "contest", never)
    with pytest.raises(RunError, match="cannot be made"):
        bench.bench(["swin_tiny"], Settings(), out=blocked)
    monkeypatch.setattr(growth, "grown", never)
    with pytest.raises(RunError, match="cannot be made"):
        growth.growth(["vit_s16"], threads=1, out=blocked)


def test_growth_of_other_threads_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "read", lambda _: growth.GrowthFacts({}, 2, []))
    (tmp_path / growth.FILE).write_text("{}")
    with pytest.raises(BenchError, match="holds figures of 2 threads, not of 1"):
        growth.growth(["vit_s16"], threads=1, out=tmp_path, resume=True)
