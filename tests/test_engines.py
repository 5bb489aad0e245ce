"""Engines: what they answer, what int8 may lose, and what is said of the clock."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import refused
from test_cli import run as command
from test_run_folder import small

from vitrail import engines, models
from vitrail.data.labels import Labels
from vitrail.engines import int8
from vitrail.engines import onnx as export
from vitrail.engines.engine import Quantiser
from vitrail.errors import ConfigError, DataError, ExportError, RunError, extra
from vitrail.jobs.predict import Predictor
from vitrail.measure.latency import Latency
from vitrail.run import deploy, images
from vitrail.run.folder import RunFolder

LABELS = Labels(("cat", "dog", "cow"), (28, 28), 1, (0.5,), (0.25,), 2.0)
N = 240


def pictures(n=N):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 7, 1), 7, 2)


def balanced(model):
    """The model with each class likely, so that its own answers can be its labels."""
    with torch.no_grad():
        model.head.bias -= model(LABELS.normalised(pictures())).mean(0)
    return model


def fragile(model):
    """The model with a hidden unit that is large and unused: it alone takes up int8's range."""
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    first, second = next(
        (a, b) for a, b in pairwise(linears) if a.out_features == b.in_features > a.in_features
    )
    with torch.no_grad():
        first.bias[0] = 3000.0
        second.weight[:, 0] = 0.0
    return model


def finished(folder, model):
    """A run that learned from a folder of images which its model tells apart by itself."""
    with torch.no_grad():
        classes = model(LABELS.normalised(pictures())).argmax(1)
    assert len(classes.unique()) == 3
    data = folder / "photos"
    for n, (image, label) in enumerate(zip(pictures(), classes, strict=True)):
        where = data / LABELS.classes[label]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(where / f"{n}.png")
    recipe = {
        "model": models.config_json(model.config),
        "data": {"spec": str(data), "image": [28, 28], "channels": 1, "mean": [0.5], "std": [0.25]},
        "steps": {"total": 1, "batch": 1},
    }
    with RunFolder.create(folder / "run") as run:
        run.save_model(model, recipe, LABELS)
        export.export_onnx(model, LABELS, run.onnx, images=pictures(16))
    return run


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(deploy, "SECONDS", 0.05)
    monkeypatch.setattr(images, "CALIBRATION", 24)
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("plain"), balanced(small()))


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "run")
    return RunFolder.open(tmp_path / "run")


@pytest.mark.parametrize("name", engines.ENGINES)
def test_files_of_an_engine_answer_as_the_model(run, name, capfd):
    found = deploy.export_engine(run.path, name, int8=True, max_drop=10, progress=False)
    assert capfd.readouterr() == ("", "")
    assert found.largest < 1e-4 and found.compared_on == "36 held-back images"
    assert found.int8.n == 36 and found.int8.calibrated_on == 24
    assert found.int8.float_score == 1 and found.int8.drop <= 10 and found.int8.name == "accuracy"
    assert all(one.p95_s >= one.p50_s > 0 for one in found.latency.values())
    model, _, labels = run.load_model()
    batch = pictures(5)
    with torch.no_grad():
        logits = model(labels.normalised(batch))
    chosen = engines.engine(name)
    probabilities, mine = chosen.open(run.path / chosen.file, labels)(batch)
    assert np.abs(mine - logits.numpy()).max() < 1e-4
    assert np.abs(probabilities - (logits / 2).softmax(1).numpy()).max() < 1e-5
    _, rough = chosen.open(run.path / chosen.int8_file, labels, single=True)(batch[:1])
    off = np.abs(rough - logits[:1].numpy()).max()
    assert 1e-6 < off < 0.3 * logits.std()
    record = json.loads(run.engines.read_text())[name]
    assert record["use"] == found.use and record["int8"]["score"] == found.int8.score
    assert not [p for p in run.path.iterdir() if p.name.startswith(".engine")]


def test_each_engine_has_its_record_and_the_predictor_uses_it(run, tmp_path, capsys):
    with pytest.raises(RunError, match="has no file for openvino: make one by `vitrail export"):
        Predictor(run.path, engine="openvino")
    for name in engines.ENGINES:
        assert command("export", str(run.path), "--engine", name, "--json") == 0
        assert json.loads(capsys.readouterr().out)["compared_on"] == "256 synthetic images"
    assert set(json.loads(run.engines.read_text())) == set(engines.ENGINES)
    Image.fromarray(pictures(1)[0, ..., 0]).save(tmp_path / "a.png")
    plain = Predictor(run.path).predict([tmp_path / "a.png"])[0]
    for name in engines.ENGINES:
        one = Predictor(run.path, engine=name).predict([tmp_path / "a.png"] * 2)[1]
        assert [c for c, _ in one.ranked] == [c for c, _ in plain.ranked]
        assert [p for _, p in one.ranked] == pytest.approx([p for _, p in plain.ranked], abs=1e-5)
    assert command("predict", str(run.path), str(tmp_path / "a.png"), "--engine", "openvino") == 0


@pytest.mark.parametrize("name", engines.ENGINES)
def test_the_fragile_nodes_stay_in_float(tmp_path, name, monkeypatch):
    monkeypatch.setattr(images, "CALIBRATION", 8)
    monkeypatch.setattr(int8, "GROUPS", 4)
    run = finished(tmp_path / name, balanced(fragile(small("vit"))))
    found = deploy.export_engine(run.path, name, int8=True, max_drop=10, progress=False).int8
    assert found.float_score - found.whole > 0.1 >= found.drop / 100
    assert 0 < len(found.kept) < found.nodes


class Toy(Quantiser):
    """A sum of parts, some of which break in int8."""

    units = tuple((f"node {n}", f"bias {n}") for n in range(40))

    def __init__(self, broken):
        self.broken, self.written = broken, 0

    def write(self, path, keep):
        self.written += 1
        left = [n for n, unit in enumerate(self.units) if not set(unit) <= set(keep)]
        path.write_text(str(sum(self.broken.get(n, 0) for n in left)))


def toy(broken, tmp_path, max_drop=0.0):
    given = np.zeros((50, 1, 1, 1), np.uint8)
    given[:, 0, 0, 0] = np.arange(50)
    truth = np.arange(50) % 2
    data = images.Images(given, given, lambda logits: (logits.argmax(1) == truth).mean())

    def answer(noise):
        def of(batch):
            value = batch[:, 0, 0, 0].astype(float)
            logits = np.stack([1 - value % 2, value % 2], 1)
            logits[:, 0] += noise
            return logits, logits

        return of

    quantiser = Toy(broken)
    found = int8.quantise(
        quantiser, answer(0), data, tmp_path / "x",
        open_file=lambda path: answer(float(path.read_text())), max_drop=max_drop,
    )  # fmt: skip
    return found, quantiser


def test_the_search_keeps_few_groups_in_float(tmp_path):
    found, quantiser = toy({7: 5.0, 33: 3.0, 12: 0.01}, tmp_path)
    assert found.whole == 0.5 and found.score == 1.0 and len(found.kept) <= 4
    assert {"node 7", "node 33"} <= set(found.kept)
    assert quantiser.written < int8.GROUPS + 8
    found, quantiser = toy({7: 0.1}, tmp_path)
    assert found.kept == () and found.drop == 0 and quantiser.written == 1
    found, _ = toy(dict.fromkeys(range(20), 2.0), tmp_path)
    assert len(found.kept) >= 20 and found.score == 1
    found, _ = toy({7: 5.0}, tmp_path, max_drop=50)
    assert found.kept == () and found.drop == 50


def test_what_breaks_everywhere_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"no file in int8 is within 0\.5 points of 100\.0%"):
        toy(dict.fromkeys(range(40), 2.0), tmp_path, max_drop=0.5)


def test_nothing_slower_is_called_faster():
    quick, slow = Latency(1e-3, 1e-3, 9, 1e-3), Latency(2e-3, 2e-3, 9, 2e-3)
    lost = int8.Int8(0.9, 0.9, 0.8, 100, 10, 0.5, 7, ("a",))
    made = deploy.Deployed(
        "openvino", "OpenVINO", "model.xml",
        {"model.onnx": slow, "model.xml": quick, "model.int8.xml": slow},
        {"model.xml": (2.0, 1.9, 2.1), "model.int8.xml": (0.5, 0.4, 0.6)},
        2, 1e-6, "9 images", lost,
    )  # fmt: skip
    said = made.said(Path("run"))
    assert "OpenVINO is 2.00 times as fast as model.onnx here (95 % interval 1.90 to 2.10" in said
    assert "int8 is 0.50 times as fast as model.xml here" in said and "p95 2.00 ms" in said
    assert "model.xml stays the one to use" in said
    assert "1 of 7 nodes stay in float, with all in int8 it would be 80.00%" in said
    level = replace(made, gain={"model.xml": (1.1, 0.9, 1.2), "model.int8.xml": (2, 1.5, 2.5)})
    told = level.said(Path("run"))
    assert "OpenVINO is not faster than model.onnx here beyond noise" in told
    # The median of int8 is twice as long, whatever the runs in turns say.
    assert "too busy to compare int8 with model.xml" in told and "2.00 times" not in told


def test_real_images_are_asked_for(run, made, tmp_path):
    moved = made.path.parent / "photos"
    recipe = json.loads(run.recipe.read_text())
    run.write_json(run.recipe, recipe | {"data": recipe["data"] | {"spec": str(tmp_path / "gone")}})
    with pytest.raises(DataError, match=r"learned from are gone.*by --data"):
        deploy.export_engine(run.path, "onnxruntime", int8=True, progress=False)
    own = images.real_images(made, recipe, LABELS, None)
    again = images.real_images(run, json.loads(run.recipe.read_text()), LABELS, moved)
    assert np.array_equal(own.held, again.held)
    logits = np.random.default_rng(0).normal(size=(len(own.held), 3)).astype(np.float32)
    assert 0 < own.score(logits) == again.score(logits) < 1
    run.write_json(run.recipe, {"model": recipe["model"]})
    with pytest.raises(DataError, match="does not say what it learned from"):
        deploy.export_engine(run.path, "onnxruntime", int8=True, progress=False)
    shutil.copytree(moved / "cat", tmp_path / "other" / "yak")
    shutil.copytree(moved / "dog", tmp_path / "other" / "dog")
    with pytest.raises(DataError, match=r"has a class 'yak' that .* does not know"):
        deploy.export_engine(run.path, "onnxruntime", data=tmp_path / "other", progress=False)


def test_the_order_of_classes_is_the_run_s(run):
    recipe = json.loads(run.recipe.read_text())
    found = images.real_images(run, recipe, LABELS, None)
    model, _, labels = run.load_model()
    with torch.no_grad():
        logits = model(labels.normalised(found.held)).numpy()
    assert found.score(logits) == 1
    several = replace(LABELS, several=True)
    part = SimpleNamespace(labels=np.array([[1, 0], [0, 1], [0, 0]]))
    marks = images._targets(part, ("cow", "cat"), several)
    assert marks.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    part = SimpleNamespace(labels=np.array([0, 1]))
    assert images._targets(part, ("cow", "cat"), LABELS).tolist() == [2, 0]


def test_a_missing_package_is_one_sentence(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    said = refused(capsys, "export", str(run.path), "--engine", "openvino")
    assert said == (
        f"vitrail: the engine openvino needs a package that is not installed: {extra('openvino')}"
    )


def test_nothing_is_reported_to_anyone(tmp_path):
    """OpenVINO leaves an id and a count in the home folder when it reports its use."""
    code = "from vitrail.engines.openvino import package; package('openvino'), package('nncf')"
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"HOME": str(tmp_path)}, check=True
    )
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "openvine"], "did you mean 'openvino'"),
        (["--int8"], "nothing to export is named"),
        (["--onnx", "--int8"], "--int8 needs an engine"),
        (["--engine", "onnxruntime", "--max-drop", "1"], "--max-drop limits what --int8 may lose"),
        (["--engine", "onnxruntime", "--int8", "--max-drop", "-1"], "--max-drop is -1"),
        (["--engine", "onnxruntime", "--threads", "0"], "--threads is 0"),
        (["--engine", "onnxruntime", "--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, arguments, words):
    assert words in refused(capsys, "export", str(run.path), *arguments)


def test_damaged_and_foreign_files_are_one_sentence(run):
    deploy.export_engine(run.path, "openvino", progress=False)
    xml, weights = run.path / "model.xml", run.path / "model.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(RunError, match=r"model\.bin is damaged .*: make it again by `vitrail"):
        Predictor(run.path, engine="openvino")
    weights.write_bytes(whole)
    xml.write_text("<net>")
    with pytest.raises(RunError, match=r"model\.xml is damaged or was changed"):
        Predictor(run.path, engine="openvino")
    with pytest.raises(RunError, match="cannot be run by OpenVINO: write it again by `vitrail"):
        engines.engine("openvino").open(xml, run.read_labels())
    xml.unlink()
    with pytest.raises(RunError, match="lacks the file for openvino"):
        Predictor(run.path, engine="openvino")
    run.write_json(run.labels, json.loads(run.labels.read_text()) | {"classes": ["x", "y", "z"]})
    with pytest.raises(RunError, match="are of other weights"):
        Predictor(run.path, engine="openvino")
    run.engines.write_text("[")
    with pytest.raises(RunError, match="is damaged"):
        Predictor(run.path, engine="openvino")
    with pytest.raises(ConfigError, match="did you mean"):
        Predictor(run.path, engine="openvin")


def test_a_run_without_an_onnx_file_or_with_an_old_one_gets_one(run):
    run.onnx.unlink()
    deploy.export_engine(run.path, "openvino", progress=False)
    before = (run.path / "model.bin").read_bytes()
    model, recipe, labels = run.load_model()
    with torch.no_grad():
        model.head.bias += torch.tensor([0.0, 3.0, 0.0])
    run.save_model(model, recipe, labels)
    with pytest.raises(RunError, match="is of other weights than the run"):
        Predictor(run.path)
    deploy.export_engine(run.path, "openvino", progress=False)
    assert (run.path / "model.bin").read_bytes() != before
    pixels = np.random.default_rng(0).integers(
        0, 256, (2, *labels.image, labels.channels), np.uint8
    )
    with torch.inference_mode():
        expected = model(labels.normalised(pixels)).numpy()
    _, found = engines.engine("openvino").open(run.path / "model.xml", labels)(pixels)
    assert np.abs(found - expected).max() < export.TOLERANCE
    assert Predictor(run.path)
