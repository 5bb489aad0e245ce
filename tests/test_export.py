"""The exported file computes what the model computes, or it is not there; and predict uses it."""

from __future__ import annotations

import csv
import io
import json
import re

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from test_run_folder import small
from torch import nn

from vitrail import export, models, predict
from vitrail.errors import DataError, ExportError
from vitrail.run_folder import Labels, RunFolder

LABELS = Labels(("cat", "dog", "cow"), (28, 28), 1, (0.3,), (0.4,), 2.5)


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = small()
    with RunFolder.create(tmp_path_factory.mktemp("runs") / "run") as folder:
        folder.save_model(model, {"model": models.config_json(model.config)}, LABELS)
        export.export_onnx(model, LABELS, folder.onnx, images=images(300))
    return folder


def test_probabilities_are_calibrated_and_batches_free(run):
    session = onnxruntime.InferenceSession(run.onnx)
    model, _, labels = run.load_model()
    for n in (1, 3, 17):
        batch = images(n, seed=n)
        with torch.no_grad():
            logits = model(labels.normalised(batch))
        probabilities, found = session.run(None, {"images": batch})
        assert np.abs(found - logits.numpy()).max() < 1e-4
        assert np.abs(probabilities - (logits / 2.5).softmax(1).numpy()).max() < 1e-5
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["cat", "dog", "cow"]
    assert json.loads(facts["image"]) == [28, 28] and facts["temperature"] == "2.5"


def test_export_again_through_the_run(run):
    again = export.export_run(run.path)
    assert again.n == 256 and again.max_logit_difference < 1e-4
    assert again.size_bytes == run.onnx.stat().st_size


class Differs(nn.Module):
    """Computes one thing in eager mode and another when it is exported."""

    def __init__(self, model, by):
        super().__init__()
        self.model, self.config, self.by = model, model.config, by

    def forward(self, x):
        offset = self.by if torch.compiler.is_compiling() else 0.0
        return self.model(x) + offset * torch.arange(3)


@pytest.mark.parametrize("by", [0.001, 50.0])
def test_a_file_that_differs_is_refused_and_removed(tmp_path, by):
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match="is not the model: of 256 images"):
        export.export_onnx(Differs(small(), by), LABELS, path, images=images(256))
    assert not list(tmp_path.iterdir())


class Unexportable(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, x):
        return self.model(x) if x.sum().item() > 0 else -self.model(x)


def test_what_cannot_be_exported_is_one_sentence(tmp_path):
    with pytest.raises(ExportError, match="cannot be exported to ONNX") as error:
        export.export_onnx(Unexportable(small()), LABELS, tmp_path / "x.onnx", images=images(2))
    assert "\n" not in str(error.value)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for n, name in enumerate(("b.png", "a.png", "deep/c.png")):
        Image.fromarray(images(1, seed=n)[0, ..., 0]).save(folder / name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_predictions_with_and_without_the_exported_file(run, photos, tmp_path):
    paths = predict.collect([photos])
    assert [p.rpartition("photos/")[2] for p in paths] == [
        "a.png", "b.png", "broken.png", "deep/c.png",
    ]  # fmt: skip
    found = predict.Predictor(run.path).predict(paths, top=2)
    assert [len(p.ranked) for p in found] == [2, 2, 0, 2]
    assert "not an image" in found[2].error
    plain = tmp_path / "plain"
    plain.mkdir()
    for file in (run.recipe, run.labels, run.weights):
        (plain / file.name).write_bytes(file.read_bytes())
    again = predict.Predictor(plain).predict(paths, top=2)
    for one, other in zip(found, again, strict=True):
        assert [c for c, _ in one.ranked] == [c for c, _ in other.ranked]
        for (_, p), (_, q) in zip(one.ranked, other.ranked, strict=True):
            assert abs(p - q) < 1e-4


def test_forms_of_predictions(run, photos):
    found = predict.Predictor(run.path).predict(predict.collect([photos]), top=3)
    rows = json.loads(predict.as_json(found))
    assert len(rows[0]["classes"]) == 3 and "error" in rows[2]
    assert sum(c["p"] for c in rows[0]["classes"]) == pytest.approx(1, abs=1e-4)
    table = list(csv.DictReader(io.StringIO(predict.as_csv(found))))
    assert table[0]["class_1"] == rows[0]["classes"][0]["class"] and table[2]["error"]
    assert predict.as_table(found).row_count == 4


def test_nothing_to_predict(photos, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        predict.collect([photos / "none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image files"):
        predict.collect([tmp_path / "empty"])


def test_the_card_s_snippet_runs(run, monkeypatch, capsys):
    from vitrail.report.card import _USE

    monkeypatch.chdir(run.path)
    exec(re.search(r"```python\n(.*)```", _USE, re.S)[1], {})
    assert capsys.readouterr().out.split()[0] in LABELS.classes
