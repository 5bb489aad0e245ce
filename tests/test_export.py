"""The exported file computes what the model computes, resize included, or it is not there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_run_folder import small
from torch import nn

from vitrail import models
from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.engines import onnx as export
from vitrail.engines.onnx import Exported
from vitrail.errors import ExportError
from vitrail.jobs.export import export_run
from vitrail.run.folder import RunFolder

LABELS = Labels(("cat", "dog", "cow"), (28, 28), 1, (0.3,), (0.4,), 2.5)


def images(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28, 1), dtype=np.uint8)


def finished(path, **told):
    """A run folder with an exported small model, whose labels say what is `told` besides."""
    model, labels = small(), replace(LABELS, **told)
    with RunFolder.create(path) as folder:
        folder.save_model(model, {"model": models.config_json(model.config)}, labels)
        made = export.export_onnx(model, labels, folder.onnx, images=images(300))
    assert made == Exported(folder.onnx, made.size_bytes, 300, made.max_logit_difference, True,
                            "held-back images")  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "run")


def test_probabilities_are_calibrated_and_batches_free(run):
    session = onnxruntime.InferenceSession(run.onnx)
    model, _, labels = run.load_model()
    for n in (1, 3, 17):
        batch = images(n, seed=n)
        with torch.no_grad():
            logits = model(labels.normalised(batch))
        probabilities, found = session.run(None, {"images": batch})
        assert logits.abs().max() > 0.05
        assert np.abs(found - logits.numpy()).max() < 1e-4
        assert np.abs(probabilities - (logits / 2.5).softmax(1).numpy()).max() < 1e-5
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["cat", "dog", "cow"]
    assert json.loads(facts["image"]) == [28, 28] and facts["temperature"] == "2.5"


def test_export_again_through_the_run(run):
    again = export_run(run.path)
    assert again.n == 256 and again.max_logit_difference < 1e-4
    assert again.size_bytes == run.onnx.stat().st_size and again.images == "synthetic images"
    assert again.resize_inside
    scenes = export.synthetic(LABELS)
    assert scenes.shape == (256, 28, 28, 1) and len({scene.tobytes() for scene in scenes}) == 256


def test_images_of_any_size_go_in(run):
    """Pixels agree to 1 of 255, so logits do to what such a difference moves them by."""
    session = onnxruntime.InferenceSession(run.onnx)
    model, _, labels = run.load_model()
    random = np.random.default_rng(0)
    for h, w in ((28, 28), (56, 31), (400, 300), (13, 90), (7, 5)):
        noise = random.integers(0, 256, (2, h, w, 1), dtype=np.uint8)
        (found,) = session.run(["logits"], {"images": noise})
        with torch.no_grad():
            small_images = resize(noise, (28, 28))
            expected = model(labels.normalised(small_images)).numpy()
            around = [
                model(labels.normalised(np.clip(small_images.astype(int) + d, 0, 255))).numpy()
                for d in (1, -1)
            ]
        allowed = 1e-4 + max(np.abs(a - expected).max() for a in around) * ((h, w) != (28, 28))
        assert np.abs(found - expected).max() <= allowed


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (64, 48), (224, 224)])
def test_the_graph_s_resize_is_that_of_training(tmp_path, size, channels):
    labels = replace(LABELS, image=size, channels=channels)
    opset = [onnx.helper.make_opsetid("", 18)]
    assert export.resize_agrees(labels, tmp_path / "front.onnx", opsets=opset)


def test_a_resize_that_departs_stays_outside(tmp_path, monkeypatch):
    model, path = small(), tmp_path / "model.onnx"
    monkeypatch.setattr(export, "resize", lambda images, size: resize(images, size) // 2)
    made = export.export_onnx(model, LABELS, path, images=images(8))
    assert not made.resize_inside and made.n == 8
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map["resize"] == "outside"
    assert session.get_inputs()[0].shape[1:] == [28, 28, 1]
    with torch.no_grad():
        expected = model(LABELS.normalised(images(3, seed=5))).numpy()
    (found,) = session.run(["logits"], {"images": images(3, seed=5)})
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("family", ["levit", "vit"])
def test_exports_quietly_what_is_folded_and_what_is_not(tmp_path, family, capfd):
    made = export.export_onnx(small(family), LABELS, tmp_path / "x.onnx", images=images(16))
    assert made.resize_inside
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    assert capfd.readouterr() == ("", "")


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
    with pytest.raises(ExportError, match="does not compute what the model does: of 256 images"):
        export.export_onnx(Differs(small(), by), LABELS, path, images=images(256))
    assert not list(tmp_path.iterdir())


def test_a_refused_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ExportError):
        export.export_onnx(Differs(small(), 1.0), LABELS, path, images=images(2))
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_logits_that_are_no_numbers_are_refused(tmp_path):
    model = small()
    with torch.no_grad():
        model.head.bias[1] = torch.nan
    with pytest.raises(ExportError, match="differ by up to nan"):
        export.export_onnx(model, LABELS, tmp_path / "x.onnx", images=images(8))


def test_nothing_to_compare_on_is_refused(tmp_path):
    with pytest.raises(ExportError, match="there are no held-back images to be compared on"):
        export.export_onnx(small(), LABELS, tmp_path / "x.onnx", images=images(0))


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


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_card_s_snippet_reads_a_picture_as_predict_does(run, mode, tmp_path):
    """With PIL, NumPy and ONNX Runtime alone, whatever the picture's size and turn."""
    from PIL import Image

    from vitrail.jobs.predict import Predictor
    from vitrail.report.card import _USE

    code = re.search(r"```python\n(.*)```", _USE, re.S)[1]
    assert set(re.findall(r"^(?:import|from) (\w+)", code, re.M)) == {
        "json", "sys", "numpy", "onnxruntime", "PIL",
    }  # fmt: skip
    shape = (60, 44) if mode == "L" else (60, 44, 3)
    picture, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(noise).save(picture, exif=exif)
    (tmp_path / "use.py").write_text(code)
    command = [sys.executable, str(tmp_path / "use.py"), str(picture)]
    told = subprocess.run(command, cwd=run.path, capture_output=True, text=True, check=True).stdout
    (found,) = Predictor(run.path).predict([picture], top=3)
    assert told.split() == [word for name, p in found.ranked for word in (f"{p:.1%}", name)]
