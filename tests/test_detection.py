"""Boxes around objects: from a folder of pictures and XML to boxes in new pictures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support import boxed_scenes

import vitrail
from vitrail import attribution
from vitrail.data.gate import inspect
from vitrail.data.labels import Labels
from vitrail.data.split import divide
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.jobs import explain_drawn
from vitrail.jobs.evaluate import evaluate
from vitrail.jobs.predict import Predictor
from vitrail.jobs.train import train_recipe
from vitrail.recipes.recipe import Data, Recipe, amend, read
from vitrail.report.predictions import as_json
from vitrail.run.folder import RunFolder
from vitrail.run.workshop import Workshop
from vitrail.runs import Run
from vitrail.tasks import Detection, finding
from vitrail.tasks.finding import Finds
from vitrail.training.steps import Steps

MODEL = {
    "family": "retinanet", "width": 16, "finest": 4, "extra": 1,
    "host": {"kind": "resnet", "depths": [1, 1], "dims": [16, 32], "expansion": 1, "strides": [],
             "stem_kernel": 3, "stem_stride": 2, "stem_dims": []},
    "image": [32, 32], "channels": 3, "classes": 2, "drop_path": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return boxed_scenes.write(tmp_path_factory.mktemp("scenes") / "shapes", 36)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    settings = [
        "task=detection", f"model={json.dumps(MODEL)}", f"data={data}", "steps.total=50",
        "steps.batch=8", "augment.scale=none", "optimizer.lr=3e-3",
    ]  # fmt: skip
    return train_recipe(settings, out=tmp_path_factory.mktemp("run") / "run")


def test_a_run_learns_and_says_how_well(run):
    result = Run(run).result
    test = result["test"]
    assert test["name"] == "mean average precision"
    assert test["low"] <= Run(run).score <= test["high"]
    assert test["figures"]["at overlap 0.5"] > 0.2
    [always] = result["baselines"]
    assert always["mean_average_precision"] < Run(run).score
    page = (run / "report.html").read_text()
    for title in ("Boxes beside the truth", "The worst pictures", "Class by class",
                  "Size by size", "What a higher score buys", "What scores mean"):  # fmt: skip
        assert title in page
    assert "session.run" in (run / "README.md").read_text()


def test_the_file_alone_gives_the_reports_figures(run, data):
    """Whoever has the ONNX file, pycocotools and the pictures finds what the report says."""
    split = divide(inspect(read(run / "recipe.json").task.source(data), progress=False))
    kept = inspect(Detection().source(data), progress=False)
    rows = [row for row, item in zip(kept.rows, kept.items, strict=True) if item.part == "test"]
    assert len(rows) == len(split.test)
    session = onnxruntime.InferenceSession(run / "model.onnx")
    answers = []
    for row in rows:
        image = np.array(Image.open(data / kept.source.items[row].key).convert("RGB"))
        boxes, scores, labels, which = session.run(
            ["boxes", "scores", "labels", "image"], {"images": image[None]}
        )
        assert not which.any() and boxes.shape == (len(scores), 4) and labels.dtype == np.int64
        answers.append(np.column_stack([boxes, scores, labels]))
    most = max(map(len, answers))
    values = torch.full((len(rows), most, 6), -1.0)
    for out, own in zip(values, answers, strict=True):
        out[: len(own)] = torch.from_numpy(own)
    truth = torch.from_numpy(kept.source.boxes.padded(rows)).float()
    found = finding.matches(Finds(values, truth, 0.0, 2), 2)
    assert finding.mean_precision(found) == pytest.approx(Run(run).score, abs=2e-3)


def test_boxes_are_written_as_json_and_drawn(run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [str(data / "JPEGImages" / f"{i:03}.png") for i in range(2)]
    found = vitrail.predict(run, paths, out="found")
    told = json.loads(as_json(found))
    for one, row, path in zip(found, told, paths, strict=True):
        written = json.loads((tmp_path / row["file"]).read_text())
        assert written["boxes"] == row["boxes"] == [box.to_json() for box in one.boxes]
        assert Image.open(row["drawn"]).size == Image.open(path).size
        assert all(box.score >= one.threshold for box in one.boxes)
        scores = [box.score for box in one.boxes]
        assert scores == sorted(scores, reverse=True)
    assert sum(len(one.boxes) for one in found) == sum(
        int(part.split()[0]) for one in found for part in (one.answer or "").split("; ")
        if part != "none"
    )  # fmt: skip
    with pytest.raises(RunError, match="not overwritten"):
        vitrail.predict(run, paths, out="found")
    assert len(Predictor(run, threshold=0.06).predict(paths[0])[0].boxes) >= len(found[0].boxes)
    with pytest.raises(ConfigError, match="gives boxes"):
        Predictor(run, engine="openvino")


def test_a_larger_picture_has_larger_boxes_and_weights_answer_as_the_file(run, data, tmp_path):
    image = np.array(Image.open(data / "JPEGImages" / "001.png"))
    larger = image.repeat(3, axis=0).repeat(2, axis=1)
    file = Predictor(run, threshold=0.2)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.onnx").unlink()
    weights = Predictor(tmp_path / "run", threshold=0.2)
    own, other, wide = (
        one.predict(picture)[0].boxes
        for one, picture in ((file, image), (weights, image), (file, larger))
    )
    assert own and [b.name for b in own] == [b.name for b in other]
    assert np.allclose([b.corners for b in own], [b.corners for b in other], atol=1e-2)
    if wide:
        assert wide[0].corners[2] <= 64 and wide[0].corners[3] <= 96
        best = np.array(own[0].corners) * [2, 3, 2, 3]
        assert min(np.abs(best - b.corners).max() for b in wide) < 12


def test_a_finished_run_is_judged_by_other_images_and_its_own(run, data, tmp_path):
    own = evaluate(run)
    assert own.figures["test"]["accuracy"] == pytest.approx(Run(run).score, abs=1e-6)
    more = boxed_scenes.write(tmp_path / "more", 9)
    assert evaluate(run, more).n == 9
    assert "Boxes beside the truth" in (own.report).read_text()


def test_a_stopped_training_goes_on_with_the_same_bits(run, data, tmp_path):
    recipe = read(run / "recipe.json")
    split = divide(inspect(recipe.task.source(data), progress=False))
    workshop = Workshop(split, device="cpu")
    straight = workshop.train(recipe, tmp_path / "straight", 6)
    workshop.train(recipe, tmp_path / "stopped", 3)
    resumed = workshop.train(recipe, tmp_path / "stopped", 6)
    pairs = zip(straight.model.state_dict().items(), resumed.model.state_dict().values(),
                strict=True)  # fmt: skip
    assert [name for (name, one), other in pairs if not torch.equal(one, other)] == []


def test_what_boxes_cannot_be_is_refused(run, data):
    empty = Recipe({}, Data(str(data)), Steps(1, 1))
    asked = amend(empty, ["task=detection", "model=resnet_18"])
    assert asked.model["family"] == "retinanet" and asked.objective is not None
    with pytest.raises(ConfigError, match="boxes do not move with it"):
        amend(empty, ["task=detection", "augment.mixup=0.2"])
    with pytest.raises(ConfigError, match="is not for task detection"):
        amend(empty, ["task=detection", "objective=crossentropy"])
    with pytest.raises(ConfigError, match="explained by occlusion alone"):
        vitrail.explain(run, [str(data / "JPEGImages" / "000.png")], method="gradient")
    with pytest.raises(ConfigError, match="judged as they are"):
        evaluate(run, engine="openvino")


def test_what_a_box_hangs_on_is_the_object_itself(run, data):
    """Hiding the object takes the box away, hiding the rest of the picture hardly does."""
    model, _, labels = RunFolder.open(run).load_model()
    for key in sorted((data / "JPEGImages").iterdir()):
        image = labels.normalised(np.array(Image.open(key))[None])[0]
        with torch.no_grad():
            [found] = model.found(model(image[None]))
        if len(found.scores) and found.scores.max() > 0.4:
            break
    told = explain_drawn.asked(model, image, labels, None)
    heat, _ = attribution.explain(told.network, image, 0, "occlusion")
    assert told.confidence == pytest.approx(float(found.scores.max()), abs=1e-5)
    x1, y1, x2, y2 = (found.boxes[found.scores.argmax()] * 32).round().int().tolist()
    assert heat[y1:y2, x1:x2].mean() > 2 * heat.mean()
    absent = labels.classes[1 - told.guess]
    with torch.inference_mode():
        blank = torch.zeros_like(image)
        if not len(model.found(model(blank[None]))[0].scores):
            with pytest.raises(DataError, match=f"does not find a '{absent}'"):
                explain_drawn.asked(model, blank, labels, absent)


def test_labels_of_other_runs_are_known_by_what_they_were():
    plain = Labels(("a",), (8, 8), 3, (0.5,) * 3, (0.5,) * 3)
    assert "boxes" not in plain.to_json()
    assert Labels(**{**plain.__dict__, "boxes": True}).to_json()["boxes"] is True


# ---- figures -----------------------------------------------------------------------------


def random_finds(n=12, classes=3, seed=0):
    random = np.random.default_rng(seed)
    values, truth = torch.full((n, 8, 6), -1.0), torch.full((n, 5, 6), -1.0)
    for i in range(n):
        for j in range(random.integers(0, 6)):
            corner, size = random.uniform(0, 60, 2), random.uniform(4, 60, 2)
            label = int(random.integers(0, classes))
            box = np.concatenate([corner, corner + size])
            truth[i, j] = torch.tensor([*box, label, int(random.random() < 0.1)])
            if random.random() < 0.8:
                off = box + random.uniform(-4, 4, 4)
                values[i, j] = torch.tensor([*off, random.random(), label])
        values[i, 7] = torch.tensor([1, 1, 30, 30, random.random(), 0])
    return Finds(values, truth, 0.0, classes)


def test_figures_are_those_of_pycocotools():
    from pycocotools.cocoeval import COCOeval

    told = random_finds()
    found = finding.matches(told, 3)
    truth = finding._coco(finding._listed(told.targets, None, crowds=True), len(told), 3)
    answers = finding._coco(finding._listed(told.values, None, crowds=False), len(told), 3)
    judged = COCOeval(truth, answers, "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    ours = [finding.mean_precision(found), finding.mean_precision(found, overlap=0),
            finding.mean_precision(found, overlap=5),
            *(finding.mean_precision(found, size) for size in finding.SIZES[1:])]  # fmt: skip
    wanted = np.where(judged.stats[:6] < 0, np.nan, judged.stats[:6])
    assert np.allclose(ours, wanted, equal_nan=True, atol=1e-12)
    assert 0.1 < ours[0] < 0.9


def test_a_bootstrap_counts_images_as_often_as_they_are_drawn():
    told = random_finds()
    weights = np.zeros(len(told))
    weights[[1, 4, 7]] = [2, 1, 1]
    rows = [1, 1, 4, 7]
    again = Finds(told.values[rows], told.targets[rows], 0.0, 3)
    twice = finding.mean_precision(finding.matches(again, 3))
    assert finding.mean_precision(finding.matches(told, 3), weights=weights) == pytest.approx(
        twice, abs=0.02
    )


def test_answers_that_are_the_truth_are_all_right():
    told = random_finds()
    truth = told.targets.clone()
    truth[truth[..., 5] > 0, 4] = -1
    values = torch.cat([truth[..., :4], torch.ones(*truth.shape[:2], 1), truth[..., 4:5]], -1)
    perfect = Finds(values, truth, 0.0, 3)
    found = finding.matches(perfect, 3)
    assert finding.mean_precision(found) == pytest.approx(1)
    assert finding.right_shares(found, len(told), 0.5).tolist() == [1.0] * len(told)
    one = finding.at_score(found[0, "all"], 0.5)
    assert (one.precision, one.recall) == (1, 1)
