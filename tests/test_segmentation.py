"""A class for every pixel: from a folder of images and masks to masks of new images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support import composites

import vitrail
from vitrail import checkpoint
from vitrail.data.gate import inspect
from vitrail.data.split import divide, unseal
from vitrail.errors import CheckpointError, ConfigError, RunError
from vitrail.jobs.predict import Predictor
from vitrail.jobs.train import train_recipe
from vitrail.models import config_json, resnet, semantic_fpn
from vitrail.recipes.pretrained import start
from vitrail.recipes.recipe import Data, Recipe, amend, read
from vitrail.run.workshop import Workshop
from vitrail.runs import Run
from vitrail.training.steps import Steps

MODEL = {
    "family": "semantic_fpn",
    "width": 16,
    "host": {"kind": "resnet", "depths": [1, 1], "dims": [16, 32], "expansion": 1,
             "strides": [], "stem_kernel": 3, "stem_stride": 1, "stem_dims": []},
    "image": [32, 32], "channels": 3, "classes": 3, "drop_path": 0.0,
}  # fmt: skip


def settings(data, *more):
    return [
        "task=segmentation", f"model={json.dumps(MODEL)}", f"data={data}", "steps.total=20",
        "steps.batch=8", "augment.scale=none", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return composites.write(tmp_path_factory.mktemp("composites") / "shapes")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return train_recipe(settings(data), out=tmp_path_factory.mktemp("run") / "run")


def test_a_run_learns_and_says_how_well(run):
    result = Run(run).result
    test = result["test"]
    assert test["name"] == "mean intersection over union"
    assert Run(run).score == test["mean_intersection_over_union"] > 0.3
    assert test["low"] <= Run(run).score <= test["high"]
    names = [one["name"] for one in result["baselines"]]
    assert names == ["always 'background'", "most frequent class at each position"]
    assert result["baselines"][0]["mean_intersection_over_union"] < Run(run).score
    page = (run / "report.html").read_text()
    assert "Masks beside the truth" in page and "The worst masks" in page


def test_the_file_alone_gives_the_reports_figures(run, data):
    """Whoever has the ONNX file and the images of the test part finds what the report says."""
    recipe = read(run / "recipe.json")
    split = unseal(_divided(recipe, data).test).keys
    session = onnxruntime.InferenceSession(run / "model.onnx")
    counts = np.zeros((3, 3), np.int64)
    for key in split:
        image = np.array(Image.open(data / key).convert("RGB"))
        truth = np.array(Image.open(data / key.replace("images", "masks")))
        (mask,) = session.run(["mask"], {"images": image[None]})
        assert mask.dtype == np.uint8 and mask.shape == (1, *truth.shape)
        np.add.at(counts, (truth.ravel(), mask[0].ravel()), 1)
    hits = counts.diagonal()
    overlap = hits / (counts.sum(0) + counts.sum(1) - hits)
    assert overlap.mean() == pytest.approx(Run(run).score, abs=2e-3)


def _divided(recipe, data):
    return divide(inspect(recipe.task.source(data), progress=False))


def test_masks_are_written_beside_pictures_of_them(run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(data / "images" / f"{i:03}.png") for i in range(2)]
    found = vitrail.predict(run, paths, out="masks")
    for one, path in zip(found, paths, strict=True):
        image = Image.open(path)
        assert one.written is not None
        mask, drawn = Image.open(one.written.mask), Image.open(one.written.overlay)
        assert mask.mode == "P" and mask.size == drawn.size == image.size
        assert np.array_equal(np.array(mask), one.mask)
        assert sum(share for _, share in one.ranked) == pytest.approx(1)
        shares = dict(one.ranked)
        for label, name in enumerate(composites.NAMES):
            assert shares.get(name, 0) == pytest.approx((one.mask == label).mean())
    with pytest.raises(RunError, match="not overwritten"):
        vitrail.predict(run, paths, out="masks")


def test_weights_answer_as_the_file_does(run, data, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.onnx").unlink()
    image = np.array(Image.open(data / "images" / "001.png"))
    ours, theirs = (Predictor(path).predict(image)[0].mask for path in (tmp_path / "run", run))
    assert (ours == theirs).mean() > 0.995


def test_a_stopped_training_goes_on_with_the_same_bits(run, data, tmp_path):
    recipe = read(run / "recipe.json")
    workshop = Workshop(_divided(recipe, data), device="cpu")
    straight = workshop.train(recipe, tmp_path / "straight", 12)
    workshop.train(recipe, tmp_path / "stopped", 5)
    resumed = Workshop(_divided(recipe, data), device="cpu").train(recipe, tmp_path / "stopped", 12)
    ours, theirs = (one.model.state_dict() for one in (straight, resumed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_of_a_classifier_begin_a_network_of_masks(tmp_path):
    host = resnet.Config(depths=(1, 1), dims=(8, 16), expansion=1, image=(32, 32), classes=7)
    classifier = vitrail.create(host)
    file = tmp_path / "classifier.safetensors"
    checkpoint.save(file, classifier.state_dict(), metadata={"config": config_json(host)})
    config = semantic_fpn.Config(replace(host, classes=3), width=8)
    model = start(config, str(file))
    own, given = model.backbone.state_dict(), classifier.state_dict()
    assert own and all(torch.equal(own[name], given[name]) for name in own)
    other = semantic_fpn.Config(replace(host, dims=(8, 24), classes=3), width=8)
    with pytest.raises(CheckpointError):
        start(other, str(file))


def test_files_of_networks_of_masks_are_identified(run):
    model = vitrail.create("seg_t_mask_16", classes=5, image=(64, 64))
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    found = vitrail.identify(state)
    assert found.name == "seg_t_mask_16" and found.config == model.config
    assert vitrail.identify(run / "weights.safetensors").config.classes == 3


@pytest.mark.slow
def test_a_fit_races_heads_and_keeps_the_figures(data, tmp_path):
    found = vitrail.fit(data, time="60s", out=tmp_path / "run", params="3M")
    assert found.result["test"]["name"] == "mean intersection over union"
    families = {one["family"] for one in found.result["candidates"]}
    assert families <= {"segmenter", "semantic_fpn", "upernet"} and len(families) > 1
    [answer] = found.predict(str(data / "images" / "000.png"))
    assert answer.mask.shape == (32, 40)


def test_what_masks_cannot_do_is_one_sentence(run, data, tmp_path):
    with pytest.raises(ConfigError, match="gives masks"):
        vitrail.export(run, engine="onnxruntime")
    with pytest.raises(ConfigError, match="judged as they are"):
        vitrail.evaluate(run, data, engine="openvino")
    with pytest.raises(ConfigError, match="explained by occlusion alone"):
        vitrail.explain(run, [str(data / "images" / "000.png")], method="rollout")
    with pytest.raises(ConfigError, match="masks do not move"):
        train_recipe(settings(data, "augment.mixup=0.2"), out=tmp_path / "never")
    with pytest.raises(ConfigError, match="objective"):
        train_recipe(settings(data, "objective=cross_entropy"), out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_backbone_gets_a_head_of_maps():
    base = Recipe({}, Data("x"), Steps(1, 1))
    for name, family in (("swin_tiny", "semantic_fpn"), ("deit_tiny", "segmenter")):
        made = amend(base, ["task=segmentation", f"model={name}", "model.image=64,96"])
        assert made.model["family"] == family and made.config.image == (64, 96)
        assert torch.is_tensor(vitrail.create(made.config)(torch.zeros(1, 3, 64, 96)))
    with pytest.raises(ConfigError, match="no head of maps"):
        amend(base, ["task=segmentation", "model=mixer_s16"])


def test_a_finished_run_is_judged_by_other_masks_and_its_own(run, data):
    """Its own test images give its own figures; classes in another order are the run's."""
    own = vitrail.evaluate(run)
    assert own.figures["test"]["accuracy"] == pytest.approx(Run(run).score, abs=1e-6)
    assert "Masks beside the truth" in own.report.read_text()
    everything = vitrail.evaluate(run, data, name="all")
    assert everything.n > own.n


def test_masks_of_other_numbers_are_the_runs():
    class Reader:
        def keys(self):
            return ["a", "b"]

        def read(self, row):
            return np.array([[0, 1, 255]], np.uint8) if row == 0 else np.array([[1]], np.uint8)

    facts = [Facts((1, 3), np.array([1, 1]), 1, b"a"), Facts((1, 1), np.array([0, 1]), 0, b"b")]
    moved = mask_views.renumbered(Masks(Reader(), tuple(facts)), [2, 0], 3)
    assert moved.read(0).tolist() == [[2, 0, 255]]
    assert moved.seen[0].counts.tolist() == [1, 0, 1]
    last = mask_views.some(moved, [1])
    assert last.read(0).tolist() == [[0]] and last.reader.keys() == ["b"]
    assert last.seen[0].digest == b"b"


def test_what_a_mask_hangs_on_is_drawn(run, data, tmp_path):
    [one] = vitrail.explain(run, [str(data / "images" / "000.png")], out=tmp_path / "seen.png")
    assert one.method == "occlusion" and 0 < one.confidence <= 1
    assert (tmp_path / "seen.png").stat().st_size > 1000
