"""A run folder: whole files, one writer, and one sentence for whatever is wrong with it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

import vitrail
from vitrail import models
from vitrail.data.labels import Labels
from vitrail.errors import CheckpointError, RunError
from vitrail.run.adopt import adopt
from vitrail.run.folder import RunFolder


def small(family="resnet"):
    """A small model whose weights are all random: zero-initialised branches would hide faults."""
    torch.manual_seed(0)
    config = next(models.small_configs(family, image=(28, 28), channels=1, classes=3))
    model = vitrail.create(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(std=max(1, p[0].numel()) ** -0.5)
            else:
                p.add_(torch.randn_like(p) * 0.1)
    return model.eval()


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
        "import sys, time; from vitrail.run.folder import RunFolder\n"
        f"run = RunFolder.create({str(tmp_path / 'run')!r}); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=rf"in use by another run \(process {other.pid}\)"):
        RunFolder.create(tmp_path / "run", resume=True)
    other.kill()
    other.wait()
    RunFolder.create(tmp_path / "run", resume=True).release()  # a dead writer's lock is not a lock


def test_taken_missing_and_damaged(tmp_path, run):
    with pytest.raises(RunError, match="not empty"):
        RunFolder.create(run.path)
    (tmp_path / "file").write_text("x")
    for resume in (False, True):
        with pytest.raises(RunError, match="is a file"):
            RunFolder.create(tmp_path / "file", resume=resume)
    with pytest.raises(RunError, match="does not exist"):
        RunFolder.create(tmp_path / "none", resume=True)
    with pytest.raises(RunError, match="does not exist"):
        RunFolder.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"no recipe\.json, labels\.json, weights"):
        RunFolder.open(tmp_path / "empty")
    whole = run.weights.read_bytes()
    run.weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated, damaged"):
        run.load_model()
    run.recipe.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        run.load_model()


def test_a_full_disk_leaves_the_old_file(run, monkeypatch):
    before = run.labels.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RunError, match=r"No space left on device.*free some space"):
        run.write_json(run.labels, {"new": 1})
    assert run.labels.read_bytes() == before
    assert not [p for p in run.path.iterdir() if p.name.startswith(".labels")]


def test_a_full_disk_under_the_weights(run):
    before = run.weights.read_bytes()
    model, recipe, labels = run.load_model()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"weights\.safetensors cannot be written.*--resume"):
            run.save_model(model, recipe, labels)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.weights.read_bytes() == before
    assert not [p for p in run.path.iterdir() if p.name.startswith(".weights")]


def test_a_folder_without_locks_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunError, match=r"cannot be locked \(No locks available\)"):
        RunFolder.create(tmp_path / "run")


def test_parts_of_different_runs_do_not_load(run):
    facts = json.loads(run.labels.read_text())
    run.write_json(run.labels, {**facts, "classes": ["a", "b"]})
    with pytest.raises(CheckpointError, match="2 classes and 1 channels, the model 3 and 1"):
        run.load_model()
    run.write_json(run.labels, facts)
    recipe = run.read_recipe()
    other = list(models.small_configs("resnet", image=(28, 28), channels=1, classes=3))[-1]
    run.write_json(run.recipe, {**recipe, "model": models.config_json(other)})
    with pytest.raises(CheckpointError, match="does not fit"):
        run.load_model()


def test_names_in_any_writing_come_back(run):
    names = ["Söhne", "猫", os.fsdecode(b"caf\xe9")]
    facts = json.loads(run.labels.read_text())
    run.write_json(run.labels, {**facts, "classes": names})
    assert run.read_labels().classes == tuple(names)
    assert "Söhne" in run.labels.read_text("utf-8")


def test_adopted_checkpoint(tmp_path):
    model = small()
    adopted = adopt(tmp_path / "adopted", model, source="weights.pth")
    loaded, recipe, labels = RunFolder.open(adopted.path).load_model()
    assert recipe["pretrained"] == "weights.pth" and labels.classes == tuple(
        f"class {i}" for i in range(3)
    )
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True)
    )
    assert json.loads((adopted.path / "labels.json").read_text())["channels"] == 1
