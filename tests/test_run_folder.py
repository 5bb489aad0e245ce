"""A run folder: whole files, one writer, and one sentence for whatever is wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import vitrail
from vitrail import models
from vitrail.errors import CheckpointError, RunError
from vitrail.run_folder import Labels, RunFolder, adopt


def small():
    torch.manual_seed(0)
    config = models.small_configs("resnet", image=(28, 28), channels=1, classes=3)[0]
    return vitrail.create(config).eval()


@pytest.fixture
def run(tmp_path):
    model = small()
    labels = Labels(("a", "b", "c"), (28, 28), 1, (0.3,), (0.4,), 1.5)
    with RunFolder.create(tmp_path / "run") as folder:
        folder.save_model(model, {"model": models.config_json(model.config)}, labels)
    return RunFolder.open(tmp_path / "run")


def test_round_trip(run):
    model, recipe, labels = run.load_model()
    assert recipe["model"]["family"] == "resnet" and labels.classes == ("a", "b", "c")
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), dtype=np.uint8)
    with torch.no_grad():
        expected = small()(labels.normalised(images))
        assert torch.equal(model(labels.normalised(images)), expected)


def test_a_folder_in_use_is_refused(tmp_path):
    code = (
        "import sys, time; from vitrail.run_folder import RunFolder\n"
        f"run = RunFolder.create({str(tmp_path / 'run')!r}); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=rf"in use by another run \(process {other.pid}\)"):
        RunFolder.create(tmp_path / "run", resume=True)
    other.kill()
    other.wait()
    RunFolder.create(tmp_path / "run", resume=True).release()  # a dead writer's lock is no lock


def test_taken_missing_and_damaged(tmp_path, run):
    with pytest.raises(RunError, match="not empty"):
        RunFolder.create(run.path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(RunError, match="does not exist"):
        RunFolder.create(tmp_path / "none", resume=True)
    with pytest.raises(RunError, match="does not exist"):
        RunFolder.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no recipe\.json, labels\.json, weights"):
        RunFolder.open(tmp_path / "empty")
    whole = run.weights.read_bytes()
    run.weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        run.load_model()
    run.recipe.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        run.load_model()


def test_a_full_disk_leaves_the_old_file(run, monkeypatch):
    before = run.labels.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match="No space left on device.*free some space"):
        run.write_json(run.labels, {"new": 1})
    assert run.labels.read_bytes() == before
    assert not [p for p in run.path.iterdir() if p.name.startswith(".labels")]


def test_adopted_checkpoint(tmp_path):
    model = small()
    adopted = adopt(tmp_path / "adopted", model, source="weights.pth")
    loaded, recipe, labels = RunFolder.open(adopted.path).load_model()
    assert recipe["pretrained"] == "weights.pth" and labels.classes == tuple(
        f"class {i}" for i in range(3)
    )
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters()))
    assert json.loads((adopted.path / "labels.json").read_text())["channels"] == 1
