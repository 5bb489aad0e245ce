"""Objects with outlines: from COCO's polygons to pixels in new pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from support import boxed_scenes, outlined_scenes

import vitrail
from vitrail.data.augment import Augment
from vitrail.data.box_batches import OutlineBatches
from vitrail.data.cache import Pixels
from vitrail.data.gate import inspect
from vitrail.data.labels import Labels
from vitrail.data.split import divide
from vitrail.engines.boxes import ask, found_by
from vitrail.engines.onnx import export_onnx, synthetic
from vitrail.errors import ConfigError, DataError
from vitrail.jobs.evaluate import evaluate
from vitrail.jobs.train import train_recipe
from vitrail.layers.outlines import SIDE, drawn_in
from vitrail.measure.session import session
from vitrail.models import config_from_json
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.run.workshop import Workshop
from vitrail.runs import Run
from vitrail.tasks import Instances
from vitrail.training.steps import Steps

MODEL = {
    "family": "mask_rcnn", "width": 16, "finest": 4, "extra": 1, "proposals": 30, "hidden": 32,
    "drawing": [16],
    "host": {"kind": "resnet", "depths": [1, 1], "dims": [16, 32], "expansion": 1, "strides": [],
             "stem_kernel": 3, "stem_stride": 2, "stem_dims": []},
    "image": [48, 48], "channels": 3, "classes": 2, "drop_path": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return outlined_scenes.write(tmp_path_factory.mktemp("scenes") / "shapes")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    settings = [
        "task=instances", f"model={json.dumps(MODEL)}", f"data={data}", "steps.total=60",
        "steps.batch=8", "augment.scale=none", "optimizer.lr=4e-3",
    ]  # fmt: skip
    return train_recipe(settings, out=tmp_path_factory.mktemp("run") / "run")


def pixels_of(data):
    split = divide(inspect(Instances().source(data), progress=False))
    return Workshop(split, device="cpu").pixels("val", (48, 48), 3)


@pytest.mark.parametrize("augment", [None, Augment(flip=1.0), Augment(flip=1.0, scale=(0.5, 0.9))])
def test_outlines_move_with_their_image(data, augment):
    """What is inside of a moved outline is of the object's colour, and nothing else is."""
    batches = OutlineBatches(
        pixels_of(data), batch=4, seed=0, augment=augment, mean=(0.0,) * 3, std=(1 / 255,) * 3,
        shuffle=False, drop_last=False,
    )  # fmt: skip
    batch = batches.get(0, 0)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    shares = []
    for image, targets in zip(batch.images, batch.targets, strict=True):
        inside = torch.zeros(48, 48, dtype=torch.bool)
        for target in targets[targets[:, 0] >= 0]:
            own = drawn_in(whole, target[None], 48)[0]
            colour = image[:2, own].mean(1)
            assert (colour[0] > 120) == bool(target[0] == 1)
            inside |= own
        bright = image[:2].amax(0) * 255 > 110 if image.max() <= 1 else image[:2].amax(0) > 110
        shares.append(float((bright == inside).float().mean()))
    assert min(shares) > 0.9


@pytest.mark.slow
def test_a_run_draws_outlines_and_says_how_well(run, data, tmp_path):
    figures = Run(run).result["test"]["figures"]
    assert 0.1 < figures["of outlines"] <= 1 and figures["of outlines at overlap 0.5"] > 0.3
    page = (run / "report.html").read_text()
    assert "Outlines" in page and "Boxes beside the truth" in page
    own = evaluate(run)
    assert own.figures["test"]["figures"]["of outlines"] == pytest.approx(figures["of outlines"])
    assert "of outlines" in own.sentence


@pytest.mark.slow
def test_predicted_outlines_are_cocos_run_lengths(run, data, tmp_path):
    path = data / "images" / "000.png"
    [found] = vitrail.predict(run, [str(path)], out=str(tmp_path / "found"))
    [written] = (tmp_path / "found").glob("*.json")
    told = json.loads(written.read_text())["boxes"]
    assert len(told) == len(found.boxes) > 0
    for one, box in zip(told, found.boxes, strict=True):
        size = one["segmentation"]["size"]
        whole = coco.decode(coco.frPyObjects(one["segmentation"], *size))
        assert np.array_equal(whole.astype(bool), box.mask) and box.mask.shape == (48, 48)
        x1, *_, y2 = box.corners
        down, right = np.nonzero(box.mask)
        assert not len(down) or (right.min() >= x1 - 1 and down.max() <= y2 + 1)
    image = np.array(Image.open(path).convert("RGB")).astype(int)
    bright = image[..., :2].max(2) > 110
    drawn = np.any([box.mask for box in found.boxes if box.score > 0.3], 0)
    assert (drawn & bright).sum() / (drawn | bright).sum() > 0.5


def test_an_exported_file_gives_the_masks_of_the_model(tmp_path):
    torch.manual_seed(0)
    model = vitrail.create(config_from_json(MODEL)).eval()
    labels = Labels(("disc", "triangle"), (48, 48), 3, (0.5,) * 3, (0.25,) * 3, boxes=True)
    images, path = synthetic(labels, 6), tmp_path / "model.onnx"
    export_onnx(model, labels, path, images=images, serve=Instances().served)
    for image, theirs in zip(images, ask(session(path), images), strict=True):
        ours = found_by(model, labels)(image)
        assert len(ours.scores) == len(theirs.scores) > 0
        assert np.allclose(ours.masks, theirs.masks, atol=1e-4)


def test_what_has_no_outlines_is_refused(data, tmp_path):
    boxed = boxed_scenes.write(tmp_path / "boxes", 9)
    with pytest.raises(DataError, match="boxes without an outline"):
        Instances().source(boxed)
    empty = Recipe({}, Data(str(data)), Steps(1, 1))
    asked = amend(empty, ["task=instances", "model=resnet_18"])
    assert asked.model["family"] == "mask_rcnn"
    with pytest.raises(ConfigError, match="draws no outlines"):
        Instances().model(vitrail.create("resnet_18"))
    path = data / "instances_val.json"
    told = json.loads(path.read_text())
    told["annotations"][0]["segmentation"] = [[1, 2]]
    other = outlined_scenes.write(tmp_path / "other", 12)
    (other / "instances_val.json").write_text(json.dumps(told))
    kept = inspect(Instances().source(other), progress=False)
    assert any("polygon of no three points" in one.reason for one in kept.broken)
    assert SIDE == 56 and isinstance(pixels_of(data), Pixels)
