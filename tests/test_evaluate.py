"""A finished run judged by other labelled images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from test_export import LABELS
from test_run_folder import small

from vitrail import models
from vitrail.errors import DataError
from vitrail.jobs.evaluate import evaluate
from vitrail.run.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    model = small()
    with RunFolder.create(tmp_path / "run") as folder:
        folder.save_model(model, {"model": models.config_json(model.config)}, LABELS)
    return tmp_path / "run"


def drawn(root, answers, images=None):
    """A folder in which `answers` says what each image is called, of classes the run knows."""
    random = np.random.default_rng(0)
    if images is None:
        images = random.integers(0, 256, (len(answers), 28, 28, 1), dtype=np.uint8)
    for number, (name, pixels) in enumerate(zip(answers, images, strict=True)):
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(root / name / f"{number}.png")
    return root


def test_figures_are_those_of_the_model_s_own_answers(run, tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    answers = ["dog", "cat", "dog", "dog", "cat", "cow", "dog"]
    data = drawn(tmp_path / "photos", answers)
    model, _, labels = RunFolder.open(run).load_model()
    right = 0
    for path in data.rglob("*.png"):
        image = np.asarray(Image.open(path))[None, ..., None]
        guess = labels.classes[int(model(labels.normalised(image)).argmax())]
        right += guess == path.parent.name
    found = evaluate(run, data)
    assert found.n == len(answers)
    assert found.figures["test"]["accuracy"] == pytest.approx(right / len(answers))
    assert [row["n"] for row in found.figures["per_class"]] == [2, 4, 1]  # in the run's order
    assert json.loads((found.folder / "result.json").read_text()) == found.figures
    page = found.report.read_text()
    assert "vitrail evaluate" in page and str(len(answers)) in page
    table = (found.folder / "look-at.csv").read_text()
    assert table.startswith("kind,group,path,label,suggestion,note")
    assert not [p for p in data.rglob("*") if p.suffix != ".png" and p.is_file()]


def test_a_class_that_the_run_does_not_know_is_one_sentence(run, tmp_path):
    data = drawn(tmp_path / "photos", ["dog", "horse", "dog", "horse"])
    with pytest.raises(DataError, match=r"has the class 'horse', which .* does not know: give"):
        evaluate(run, data)
