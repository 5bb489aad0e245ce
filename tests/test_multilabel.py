"""Several labels for every image: from a table to answers."""

from __future__ import annotations

import csv
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.data.augment import Augment
from vitrail.data.batches import Batches
from vitrail.data.cache import pixels
from vitrail.data.gate import inspect
from vitrail.data.labels import Labels
from vitrail.data.opening import open_source
from vitrail.data.split import divide, unseal
from vitrail.engines.served import same_answers
from vitrail.errors import ConfigError, DataError, ExportError, RunError
from vitrail.jobs.arguments import ask
from vitrail.jobs.fit import fit
from vitrail.jobs.predict import Predictor
from vitrail.jobs.train import train_recipe
from vitrail.objectives import BinaryCrossEntropy, CrossEntropy
from vitrail.objectives.context import Context
from vitrail.recipes.recipe import Data, Recipe, amend, from_json, task_of
from vitrail.report.predictions import as_csv, as_json, show
from vitrail.run import deploy
from vitrail.run.folder import RunFolder
from vitrail.runs import Run
from vitrail.tasks import Classification, MultiLabel, several
from vitrail.tasks.task import Outputs
from vitrail.training.objective import Step
from vitrail.training.steps import Steps

NAMES = ("red", "dot", "bar")


def drawn(folder, *, form="cells", n=60, odds=(0.5, 0.35, 0.3), side=16):
    """Draw images that show what their labels say, and the table of them."""
    (folder / "img").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = ["path,labels" if form == "cells" else f"path,{','.join(NAMES)}"]
    for i in range(n):
        has = random.random(3) < odds
        image = random.integers(0, 60, (side, side, 3)).astype(np.uint8)
        image[..., 0] += np.uint8(120 * has[0])
        if has[1]:
            image[4:9, 4:9] = 255
        if has[2]:
            image[:, -5:, 1] = 230
        Image.fromarray(image).save(folder / "img" / f"{i:03}.png")
        named = ";".join(name for name, one in zip(NAMES, has, strict=True) if one)
        marks = ",".join(str(int(one)) for one in has)
        rows.append(f"img/{i:03}.png,{named if form == 'cells' else marks}")
    path = folder / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    """Train a tiny model on the drawn images."""
    settings = [
        "task=multi_label", "model=cct_2_3x2_32", "model.image=16,16", "model.dim=32",
        f"data={table}", "steps.total=40", "augment.mixup=0.2",
    ]  # fmt: skip
    return train_recipe(settings, out=tmp_path_factory.mktemp("run") / "run")


def split_of(path):
    return divide(inspect(open_source(path, several=True), progress=False))


# ---- data ------------------------------------------------------------------------------


def test_cells_and_columns_say_the_same(table, tmp_path):
    cells = open_source(table, several=True)
    columns = open_source(drawn(tmp_path / "columns", form="columns"), several=True)
    assert cells.classes == columns.classes == ("bar", "dot", "red")
    assert [item.labels for item in cells.items] == [item.labels for item in columns.items]
    assert any(len(item.labels) > 1 for item in cells.items)
    assert any(not item.labels for item in cells.items)


def test_every_part_has_its_share_of_each_label_and_of_none(tmp_path):
    path = drawn(tmp_path / "rare", n=200, odds=(0.7, 0.5, 0.06))
    split = split_of(path)
    parts = split.train, split.val, unseal(split.test)
    whole = np.concatenate([part.labels for part in parts])
    assert len(whole) == 200
    for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
        for had, total in zip(part.labels.sum(0), whole.sum(0), strict=True):
            assert had >= 1
            assert had == pytest.approx(share * total, abs=max(2, 0.05 * total))
        without = (part.labels.sum(1) == 0).sum()
        assert without == pytest.approx(share * (whole.sum(1) == 0).sum(), abs=2)
    assert divide(inspect(open_source(path, several=True), progress=False)).val.keys == (
        split.val.keys
    )


def test_a_label_that_cannot_be_in_every_part_is_an_error(tmp_path):
    path = drawn(tmp_path / "two", n=30, odds=(0.5, 0.5, 0.0))
    lines = path.read_text().splitlines()
    lines[1] += ";bar"
    lines[2] += ";bar"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="'bar' from"):
        split_of(path)


def test_targets_are_marks_and_mixed_as_images_are(table):
    part = split_of(table).train
    images = pixels(part, (16, 16), 3, progress=False)
    ways = {"batch": 8, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    plain = Batches(images, **ways).get(0, 0)
    assert plain.targets.dtype == torch.float32
    assert plain.targets.tolist() == part.labels[plain.indices].tolist()
    mixed = Batches(images, augment=Augment(mixup=1.0), **ways).get(0, 0)
    assert ((mixed.targets > 0) & (mixed.targets < 1)).any()
    # Every target is a blend of two rows of marks with one weight for the image.
    marks = torch.from_numpy(part.labels[mixed.indices]).float()
    for row, own in zip(mixed.targets, marks, strict=True):
        fits = [
            torch.allclose(row, w * own + (1 - w) * other)
            for other in marks
            for w in {float(v) for v in row} | {1 - float(v) for v in row} | {1.0}
        ]
        assert any(fits)


def test_the_wrong_data_is_one_sentence(table, tmp_path):
    folder = tmp_path / "classes"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "0.png")
    with pytest.raises(DataError, match="have one class each"):
        fit(folder, task="multilabel", out=tmp_path / "never")
    with pytest.raises(DataError, match="--task multilabel"):
        fit(table, out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


# ---- figures ---------------------------------------------------------------------------


def test_the_bootstrap_counts_as_scikit_learn_does():
    random = np.random.default_rng(1)
    marks = torch.from_numpy(random.random((50, 4)) < 0.3).float()
    logits = torch.from_numpy(random.integers(-5, 5, (50, 4)) / 2).float()  # many are equal
    ours = [
        several._Ranked(logits[:, k].numpy(), marks[:, k].numpy()).average_precision(np.ones(50))
        for k in range(4)
    ]
    assert ours == pytest.approx(several.average_precisions(logits, marks), abs=1e-6)
    resampled = several.Resampled(marks)
    found = several.interval(
        several.mean_average_precision(logits, marks), resampled.means(logits.numpy())
    )
    assert found.low < found.middle < found.high
    again = several.Resampled(marks).means(logits.numpy())
    assert (again == resampled.means(logits.numpy())).all()


def test_thresholds_are_where_f1_is_largest():
    marks = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]]).float()
    logits = torch.tensor(
        [[2.0, -1.0, 3.0, 0.0], [1.0, -3.0, 2.0, 0.0], [-1.0, -3.0, 1.0, 0.0], [-2.0, -4, 0, 0.0]]
    )
    cuts = several.thresholds(logits, marks)
    at = torch.tensor(cuts, dtype=torch.float64).logit()
    assert at[0] == 0  # everything between -1 and 1 is as good: 0.5 is the nearest
    assert at[1] == pytest.approx(-2)
    assert at[2] == 0  # nobody has it
    # Logits that are equal cannot be parted: all of them are told.
    assert at[3] < 0
    brute = [
        max(
            2 * float(((logits[:, k] > c) & (marks[:, k] > 0)).sum())
            / float((logits[:, k] > c).sum() + marks[:, k].sum())
            for c in np.linspace(-5, 5, 401)
        )
        for k in (0, 1, 3)
    ]  # fmt: skip
    chosen = logits.double() >= at
    scores = several.per_label(logits, marks, chosen)
    assert [scores[k].f1 for k in (0, 1, 3)] == pytest.approx(brute, abs=1e-6)


def test_labels_nobody_has_do_not_count():
    marks = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    logits = torch.tensor([[1.0, 5.0], [0.0, 4.0]])
    assert several.average_precisions(logits, marks) == [1.0, None]
    assert several.mean_average_precision(logits, marks) == 1.0
    assert several.mean_average_precision(logits, torch.zeros(2, 2)) == 0.0
    scores = MultiLabel().scores(Outputs(logits, marks))
    assert (scores.main, scores.name) == (1.0, "mean average precision")


def test_right_is_the_likeliest_label_or_none():
    logits = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0], [1.0, -2.0]])
    marks = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert MultiLabel().right(Outputs(logits, marks)) == [True, False, True, False]


def test_agreement_is_of_sets():
    labels = Labels(("a", "b"), (8, 8), 3, (0.5,), (0.5,), several=True, thresholds=(0.5, 0.9))
    ours = torch.tensor([[0.1, 2.0], [3.0, 3.0]])
    assert same_answers(ours, ours.numpy(), labels).changed == 0
    theirs = ours.numpy() + np.float32([[0, 0], [0, -1.0]])  # 3 reaches 0.9, 2 does not
    assert same_answers(ours, theirs, labels).changed == 1


# ---- recipe ----------------------------------------------------------------------------


def bare(*settings):
    return amend(Recipe({}, Data("x"), Steps(1, 1)), settings)


def test_the_task_brings_its_objective():
    assert isinstance(bare("task=multilabel").objective, BinaryCrossEntropy)
    late = bare("objective.smoothing=0.05", "task=multi_label")
    assert late.objective == BinaryCrossEntropy(0.05)
    assert from_json(vitrail.config.to_json(late)) == late
    with pytest.raises(ConfigError, match="set objective=binary_cross_entropy"):
        bare("task=multilabel", "objective=cross_entropy")
    with pytest.raises(ConfigError, match="set objective=cross_entropy"):
        bare("objective=binary_cross_entropy")
    asked = ask("x.csv", {"task": "multilabel"}, (), None)
    assert asked.wish.task == MultiLabel()
    assert asked.command == "vitrail fit x.csv --task multilabel"
    with pytest.raises(ConfigError, match="twice"):
        ask("x.csv", {"task": "multilabel"}, ("task=multilabel",), None)


def test_older_recipes_and_labels_read_as_they_did():
    assert task_of({}) == task_of({"task": {"metric": "auto"}}) == Classification()
    old = {"model": {}, "data": {"spec": "x"}, "steps": {"total": 1, "batch": 1}}
    assert from_json(old | {"objective": {"smoothing": 0.2}, "task": {"metric": "balanced"}}) == (
        Recipe({}, Data("x"), Steps(1, 1), objective=CrossEntropy(0.2),
               task=Classification("balanced"))
    )  # fmt: skip
    assert not {"several", "thresholds"} & set(Labels(("a",), (8, 8), 3, (0.5,), (0.5,)).to_json())


@pytest.mark.parametrize(("many", "cuts"), [(False, (0.5, 0.5)), (True, (0.5,)), (True, (2, 0))])
def test_thresholds_that_fit_no_labels(many, cuts):
    with pytest.raises(ConfigError, match="thresholds"):
        Labels(("a", "b"), (8, 8), 3, (0.5,), (0.5,), several=many, thresholds=cuts)


def test_balance_weighs_rare_labels_up():
    context = Context(("a", "b"), (50, 10), 100)
    targets = torch.zeros(100, 2)
    targets[:50, 0] = targets[:10, 1] = 1
    batch = SimpleNamespace(images=torch.zeros(100, 2, requires_grad=True), targets=targets)
    loss = BinaryCrossEntropy(balance=1.0).build(torch.nn.Identity(), context)
    value = loss(lambda x: x, batch, Step(0, 1, 0))["loss"]
    assert value.item() == pytest.approx(np.log(2), abs=1e-6)  # weights are 1 on average
    (slope,) = torch.autograd.grad(value, batch.images)
    # Both sides count alike, so at a logit of 0 nothing pulls to either.
    assert slope.sum(0).abs().max() < 1e-7


# ---- the run ---------------------------------------------------------------------------


def test_a_run_says_what_it_is(run):
    made = Run(run)
    test = made.result["test"]
    assert test["name"] == "mean average precision"
    assert 0 <= test["low"] <= test["mean_average_precision"] <= test["high"] <= 1
    assert made.score == test["mean_average_precision"] > 0.6
    assert "accuracy" not in test
    with pytest.raises(RunError, match="mean average precision"):
        _ = made.accuracy
    names = [one["name"] for one in made.result["baselines"]]
    assert names == ["always each label's frequency", "linear model on 16x16 pixels"]
    page, card = (run / "report.html").read_text(), (run / "README.md").read_text()
    for text in (page, card):
        assert "mean average precision" in text
        assert "accuracy" not in text.replace("little accuracy", "")
    assert "Label by label" in page
    assert "3 labels" in page
    assert 'facts["thresholds"]' in card


def test_the_exported_file_tells_the_same_labels(run, table):
    model, _, labels = RunFolder.open(run).load_model()
    assert labels.several
    assert len(labels.thresholds) == 3
    images = np.stack([np.asarray(Image.open(p)) for p in sorted((table.parent / "img").iterdir())])
    session = onnxruntime.InferenceSession(str(run / "model.onnx"))
    shares, logits = session.run(None, {"images": images})
    with torch.no_grad():
        ours = model(labels.normalised(images))
    found = same_answers(ours, logits, labels)
    assert (found.largest < 1e-4, found.changed) == (True, 0)
    assert np.abs(shares - labels.probabilities(ours).numpy()).max() < 1e-3
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["thresholds"]) == list(labels.thresholds)


def test_predictions_have_all_labels_above_their_thresholds(run, table, capsys):
    paths = [str(table.parent / "img" / f"{i:03}.png") for i in range(12)]
    predictor = Predictor(run)
    found = predictor.predict(paths, top=1)
    labels = predictor.labels
    bounds = dict(zip(labels.classes, labels.thresholds, strict=True))
    for one, every in zip(found, predictor.predict(paths, top=9), strict=True):
        assert one.chosen == tuple((n, p) for n, p in every.ranked if p >= bounds[n])
        assert len(one.ranked) == 1
    assert any(len(one.chosen) > 1 for one in found)
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["answer"] for row in rows] == [one.answer for one in found]
    told = json.loads(as_json(found))
    assert [[x["class"] for x in one["labels"]] for one in told] == [
        [name for name, _ in one.chosen] for one in found
    ]
    strict = Predictor(run, threshold=1.0).predict(paths[:1])
    assert (strict[0].answer, strict[0].chosen, strict[0].none_of_these) == ("none", (), True)
    from rich.console import Console

    show([*found, *strict], Console(width=160))
    said = capsys.readouterr().out
    assert "none" in said
    name, share = next(one.chosen[0] for one in found if one.chosen)
    assert f"{name} {share:.1%}" in said


def test_weights_answer_as_the_file_does(run, table, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "model.onnx").unlink()
    path = table.parent / "img" / "000.png"
    one, other = (Predictor(folder).predict(path)[0] for folder in (run, bare))
    assert [name for name, _ in one.chosen] == [name for name, _ in other.chosen]
    assert dict(one.ranked) == pytest.approx(dict(other.ranked), abs=1e-4)


def test_the_file_can_be_written_again(run):
    assert vitrail.export(run).max_logit_difference < 1e-4


@pytest.fixture
def copied(run, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, "SECONDS", 0.02)
    return shutil.copytree(run, tmp_path / "copied")


def test_int8_keeps_to_a_budget_of_mean_average_precision(copied):
    made = vitrail.export(copied, engine="onnxruntime", int8=True, max_drop=5)
    found, folder = made.int8, RunFolder.open(copied)
    assert found is not None and found.name == "mean average precision" and found.drop <= 5
    assert f"mean average precision {found.score:.2%} on {found.n} held-back" in made.said(copied)
    # The same, computed from the files on the validation images.
    _, recipe, labels = folder.load_model()
    split = split_of(recipe["data"]["spec"])
    held = pixels(split.val, labels.image, labels.channels)
    order = [split.classes.index(name) for name in labels.classes]
    marks = torch.as_tensor(held.labels).float()[:, order]
    for file, told in (("model.onnx", found.float_score), ("model.int8.onnx", found.score)):
        logits = deploy.logits(
            "onnxruntime", copied / file, labels, held.take(np.arange(len(held)))
        )
        ours = several.mean_average_precision(torch.from_numpy(logits), marks)
        assert ours == pytest.approx(told, abs=1e-6), file


def test_int8_of_several_labels_is_refused_beyond_the_budget(copied, monkeypatch):
    """Whatever is quantised forgets all."""
    from vitrail.engines.onnxruntime import OnnxRuntime

    whole = OnnxRuntime.open

    def broken(self, path, labels, **how):
        answer = whole(self, path, labels, **how)
        if ".int8." not in path.name:
            return answer
        return lambda batch: [np.zeros_like(part) for part in answer(batch)]

    monkeypatch.setattr(OnnxRuntime, "open", broken)
    with pytest.raises(ExportError, match=r"within 0\.5 points of mean average precision of"):
        vitrail.export(copied, engine="onnxruntime", int8=True)
    assert not (copied / "model.int8.onnx").exists()
