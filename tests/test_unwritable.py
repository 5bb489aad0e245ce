"""Places that cannot be written are told before anything that takes time, by every command."""

from __future__ import annotations

import io
import json
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from support import composites
from support.pictures import write_classes
from test_cli import refused
from test_evaluate import drawn, run
from test_segmentation import MODEL

from vitrail import bench
from vitrail.bench import growth
from vitrail.bench.contests import Settings
from vitrail.data import masked
from vitrail.errors import BenchError, ConfigError, DataError, RunError
from vitrail.jobs import evaluate as evaluating
from vitrail.jobs import fit as fitting
from vitrail.jobs import masks
from vitrail.jobs import private as answering
from vitrail.jobs.detect import Asked, detect
from vitrail.jobs.train import train_recipe
from vitrail.recipes.recipe import Data
from vitrail.run import reading
from vitrail.run.folder import RunFolder
from vitrail.run.view import View
from vitrail.training.device import check_device

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


def test_a_page_of_secrets_is_written_over_nothing(run, tmp_path, blocked, monkeypatch, capsys):
    monkeypatch.setattr(answering, "private", never)
    photo, page = tmp_path / "a.png", tmp_path / "page.html"
    page.write_text("precious")
    for out in (page, blocked):
        said = refused(capsys, "private", str(run), str(photo), "--out", str(out))
        assert "exists and is not overwritten" in said or "cannot be made" in said
    assert page.read_text() == "precious"
    for option, value in (("--bandwidth", "0"), ("--bandwidth", "inf"), ("--round-trip", "-1")):
        said = refused(capsys, "private", str(run), str(photo), option, value)
        assert f"{option} is {value}: give a number" in said


def test_a_fit_that_has_no_place_pretrains_nothing(blocked, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "pretrain", never)
    (tmp_path / "full" / "x").mkdir(parents=True)
    for out in (blocked, tmp_path / "full"):
        with pytest.raises(RunError, match=r"cannot be made|exists and is not empty"):
            fitting.fit("fashion-sample", pretrain="pictures", out=out, time="20s")
    assert not (tmp_path / "full-pretraining").exists()


def test_wrong_rules_and_devices_cost_no_reading(tmp_path, monkeypatch, capsys):
    """A source of masks reads them all: what is wrong is told before."""
    root = composites.write(tmp_path / "shapes", 12)
    monkeypatch.setattr(masked, "look", never)
    monkeypatch.setattr(reading, "inspect", never)
    data, model = f"data={root}", f"model={json.dumps(MODEL)}"
    wrong = {
        "device": "device 'tpu' does not exist: give auto, cpu",
        "data.group_by=(": "group-by is '(', which is not a regular expression",
        "data.duplicates=some": "duplicates",
        "data.val=2": "val is 2",
    }
    for setting, said in wrong.items():
        settings = ["task=segmentation", data, model, *([setting] if "=" in setting else [])]
        with pytest.raises(ConfigError, match=re.escape(said)):
            train_recipe(settings, out=tmp_path / "run", device="tpu")
    view = View(Console(file=io.StringIO()))
    photos = write_classes(tmp_path / "photos", {"ash": 3, "oak": 3})
    with pytest.raises(DataError, match="group-by 'subject' is not found in 6 of 6 paths"):
        reading.read(Data(str(photos), group_by="subject"), reading.Hardware("cpu"), view)
    assert "not a regular expression" in refused(capsys, "check", str(root), "--group-by", "(")
    assert not (tmp_path / "run").exists()
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda:1' is not available on this machine"):
            check_device("cuda:1")
