"""`vitrail pretrain` from pictures to a page, and what stands on its weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.pictures import photo, write_classes
from test_cli import refused, run
from torch import nn

from vitrail.data.gate import inspect
from vitrail.data.told import told
from vitrail.data.unlabelled import open_pictures
from vitrail.errors import RunError
from vitrail.jobs import against
from vitrail.jobs import fit as fit_module
from vitrail.jobs.arguments import Arguments
from vitrail.jobs.pretrain import Asked, pretrain, read_pictures
from vitrail.models import identify
from vitrail.recipes.defaults import default
from vitrail.recipes.pretrained import start
from vitrail.recipes.pretraining import usual_model
from vitrail.recipes.recipe import Data, read
from vitrail.run.finish import Trained
from vitrail.run.folder import RunFolder
from vitrail.run.normalisation import normalisation
from vitrail.run.reading import Hardware
from vitrail.run.state import State
from vitrail.run.subject import subject
from vitrail.run.view import View
from vitrail.search.field import brought
from vitrail.search.shelf import shelf
from vitrail.tasks.fewshot import few_shots, least_squares, left_out_error, nearest
from vitrail.tasks.task import Scores
from vitrail.training.interrupt import Interrupted
from vitrail.training.journal import Journal

TINY = [
    "steps.batch=8", "model.dim=16", "model.depth=1", "model.heads=2", "model.hidden=32",
    "steps.total=6",
]  # fmt: skip
SMALL_HEAD = ["objective.teaching.hidden=16", "objective.teaching.outputs=16"]


@pytest.fixture(autouse=True)
def few_threads(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "photos"
    write_classes(folder, {"cat": 16, "dog": 16}, lambda seed: photo(seed, 16, 16))
    return folder


@pytest.fixture(scope="module")
def finished(classes, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return pretrain(classes, method="attmask", settings=[*TINY, *SMALL_HEAD], out=out, device="cpu")


def test_a_pretraining_leaves_weights_and_a_page(finished):
    folder = RunFolder.open(finished)
    recipe = read(folder.recipe)
    state = load_file(folder.weights)
    assert recipe.config.classes == 0 and not any(n.startswith("head") for n in state)
    last = sorted((finished / "checkpoints" / "backbone" / "checkpoint").iterdir())[-1]
    teacher = {
        name.removeprefix("objective.teacher.backbone."): value
        for name, value in load_file(last).items()
        if name.startswith("objective.teacher.backbone.")
    }
    assert state.keys() == teacher.keys()
    assert all(torch.equal(state[name], teacher[name]) for name in state)
    result = json.loads(folder.result.read_text())
    assert [look["step"] for look in result["looks"]] == [0, 1, 2, 3, 4, 5, 6]
    lines = [line for line in Journal(folder.metrics).read() if "loss" in line]
    assert {"class", "patch"} <= lines[-1].keys()
    page = folder.report.read_text()
    for said in ("A map of the features", "Pictures that look alike", "Where it looks", "Learning"):
        assert said in page
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow  # starts two processes
def test_two_processes_have_the_loss_curve_of_one(classes, finished, tmp_path):
    """Each sees half of a batch; centres, views and hidden patches are those of the whole."""
    recipe = read(RunFolder.open(finished).recipe)
    asked = Asked(str(classes), "attmask", None, 60.0, True, 0, (*TINY, *SMALL_HEAD))
    workshop = read_pictures(asked, Hardware("cpu", 2), View(Console(quiet=True))).workshop
    workshop.train(recipe, tmp_path / "two", recipe.steps.total, together=True)
    curves = [
        [line["loss"] for line in Journal(path / "metrics.jsonl").read() if "loss" in line]
        for path in (finished, tmp_path / "two")
    ]
    assert len(curves[0]) == 6
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_a_run_without_classes_answers_nothing(finished):
    with pytest.raises(RunError, match="made by `vitrail pretrain` and knows no classes"):
        RunFolder.open(finished).load_model()


def test_a_stopped_pretraining_ends_with_the_same_bits(classes, finished, tmp_path, monkeypatch):
    from vitrail.run.workshop import Workshop

    whole, made = Workshop.train, []

    def stopped(self, recipe, folder, until, *rest, **more):
        made.append(until)
        if until == 4:
            whole(self, recipe, folder, until, *rest, **more)
            raise Interrupted("stopped")
        return whole(self, recipe, folder, until, *rest, **more)

    monkeypatch.setattr(Workshop, "train", stopped)
    settings = [*TINY, *SMALL_HEAD]
    with pytest.raises(Interrupted, match=r"vitrail pretrain .* --method attmask --resume"):
        pretrain(classes, method="attmask", settings=settings, out="run", device="cpu")
    monkeypatch.setattr(Workshop, "train", whole)
    again = pretrain(classes, method="attmask", out="run", resume=True, device="cpu")
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (again, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    lines = [Journal(folder / "metrics.jsonl").read() for folder in (again, finished)]
    for one, other in zip(*lines, strict=True):
        for name in ("step", "loss", "class", "patch", "knn", "linear"):
            assert one.get(name) == other.get(name)


def test_pictures_without_classes(classes, tmp_path, capsys):
    flat = tmp_path / "flat"
    for number, file in enumerate(sorted(classes.rglob("*.png"))):
        where = flat / ("deep/er" if number % 2 else ".")
        where.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, where / f"{number}.png")
    shutil.copy(flat / "0.png", flat / "again.png")
    (flat / "notes.txt").write_text("no picture")
    source = open_pictures(flat)
    assert len(source) == 33 and source.classes == ()
    lines = told(inspect(source, progress=False))
    assert lines[0] == "33 images without classes"
    assert any("1 group of identical files among the pictures" in line for line in lines)
    settings = [*TINY, "objective.dim=16", "objective.heads=2", "objective.depth=1"]
    found = pretrain(flat, method="mae", settings=settings, out="flat-run", device="cpu")
    result = json.loads((found / "result.json").read_text())
    assert result["looks"] == [] and result["images"] == 33
    assert "No classes are known" in (found / "report.html").read_text()


def test_the_time_decides_over_the_steps(classes):
    """Without steps.total a few steps are timed; there are always enough for ten looks."""
    settings = [*TINY[:-1], "objective.corruption.most=0.4", "objective.hidden=8"]
    found = pretrain(classes, method="sit", settings=settings, time="1s", out="timed", device="cpu")
    recipe = read(found / "recipe.json")
    assert recipe.steps.total >= 20 and recipe.objective.corruption.most == 0.4
    looks = json.loads((found / "result.json").read_text())["looks"]
    assert len(looks) == 11 and looks[-1]["step"] == recipe.steps.total


def test_labels_may_be_left_alone(classes):
    assert open_pictures(classes).classes == ("cat", "dog")
    bare = open_pictures(classes, labels=False)
    assert bare.classes == () and len(bare) == 32
    assert open_pictures("fashion-sample", labels=False).classes == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "simclr"], "--method 'simclr' does not exist"),
        (["--method", "attmask", "--model", "resnet_18"], "attmask hides patches, and ResNet"),
        (["--method", "mae", "--model", "swin_tiny"], "mae hides patches"),
        (["--set", "data.val=0.5"], "pretrain decides data.val itself"),
        (["--set", "steps.batch=64"], "24 pictures are fewer than one batch of 64"),
        (["--set", "objective.crops.size=90"], "larger than the images of 16x16"),
        (["--set", "objective.depht=3"], "no such field"),
        (["--time", "soon"], "soon"),
    ],
)
def test_what_cannot_be_pretrained(classes, capsys, arguments, said):
    assert run("pretrain", str(classes), "--out", "none", *arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("vitrail: ") and said in last
    assert not Path("none").exists()


def test_no_pictures(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "holds nothing and no picture" in refused(capsys, "pretrain", "empty", "--out", "x")
    (tmp_path / "empty" / "a.txt").write_text("x")
    assert "1 file and no picture" in refused(capsys, "pretrain", "empty", "--out", "x")
    assert "does not exist" in refused(capsys, "pretrain", "missing", "--out", "x")


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 64), (100, 100), (480, 640)])
def test_the_usual_model_cuts_whole_patches(size):
    for device in ("cpu", "cuda"):
        config = usual_model(size, 3, device)
        assert all(side % config.patch == 0 for side in config.image) and config.classes == 0
        assert max(config.image) <= 224 and 16 <= np.prod(config.image) / config.patch**2 <= 200


# ---- what stands on the weights --------------------------------------------------------


def test_a_pretraining_is_a_shelf_for_fit(finished, classes):
    """Its weights and its normalisation are what candidates of a fit begin with."""
    found, left_out = shelf(finished, image_size=(16, 16), classes=3)
    assert not left_out and {one.image for one in found} >= {(16, 16)}
    one = next(one for one in found if one.image == (16, 16))
    assert one.config.classes == 3 and one.pretrained == str(finished / "weights.safetensors")
    torch.manual_seed(0)
    model = start(one.config, one.pretrained)
    weights = load_file(finished / "weights.safetensors")
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in weights.items())
    recipe = read(finished / "recipe.json")
    assert normalisation(one.pretrained, identify(one.pretrained)).mean == recipe.data.mean


def test_what_weights_brought_is_told():
    def runner(name, pretrained, right, rung=1):
        candidate = SimpleNamespace(title=name, pretrained=pretrained)
        return SimpleNamespace(candidate=candidate, accuracy=right, rung=rung)

    both = [runner("A", "run", 0.9), runner("B", None, 0.85), runner("C", None, 0.95, rung=0)]
    said = brought(both)
    assert "(A) reached 90.0%" in said.replace("\u00a0", "").replace(" %", "%")
    assert "5.0 points more, in rounds 2 and 2" in said
    assert "5.0 points fewer" in brought([runner("A", "run", 0.8), runner("B", None, 0.85)])
    assert brought(both[1:]) is None and brought([runner("A", "run", None)]) is None


def test_the_time_of_a_pretraining_counts_against_it(finished, classes, tmp_path, monkeypatch):
    """From scratch the network gets the steps that fit into the pretraining's time as well; they
    are settled once, so that a stopped comparison goes on with them."""
    took = against.pretraining_s(str(finished))
    assert took and took == against.pretraining_s(str(finished / "weights.safetensors"))
    assert against.pretraining_s(str(classes)) is None is against.pretraining_s(None)
    images = read_pictures(Asked(str(classes)), Hardware("cpu"), View(Console(quiet=True)))
    recipe = default(
        replace(read(finished / "recipe.json").config, classes=2),
        images.workshop.data(Data(str(classes)), (16, 16), 3), images=16, total=4,
        pretrained=str(finished / "weights.safetensors"),
    )  # fmt: skip
    one = subject(recipe.config, pretrained=recipe.pretrained)
    state = State.new(tmp_path / "fit.json", finals={one.name: {"pace": 3 / took}})
    desk = SimpleNamespace(state=state, workshop=images.workshop, run=RunFolder(tmp_path))
    trained = Trained(one, recipe, nn.Identity(), Scores(0.25, 1.0, 8))
    seen = []
    right = Scores(0.5, 1.0, 8)
    monkeypatch.setattr(
        against.Watched, "to_end", lambda self, recipe: seen.append(recipe) or (None, right)
    )
    said = against.against_scratch(trained, desk, View(Console(quiet=True)), ("augment.flip=0",))
    [scratch] = seen
    assert scratch.steps.total == 4 + 3 and scratch.pretrained is None and scratch.head == "random"
    assert scratch.config == recipe.config and scratch.augment.flip == 0
    assert "in 7 steps in place of 4" in said and "25.0 points more" in said
    against.against_scratch(trained, desk, View(Console(quiet=True)), ())
    assert seen[1] == scratch
    bare = replace(trained, subject=subject(recipe.config))
    assert against.against_scratch(bare, desk, View(Console(quiet=True)), ()) is None


def test_only_a_pretraining_has_a_time_that_counts(capsys, classes):
    for more, said in (([], "no weights are given"), (["--pretrained", "x.pth"], "x.pth is none")):
        told = refused(capsys, "fit", str(classes), "--against-scratch", *more)
        assert said in told and "add --pretrain PICTURES" in told


def test_one_source_of_weights(capsys):
    told = refused(capsys, "fit", "photos", "--pretrained", "run", "--pretrain", "photos")
    assert "leave one out" in told


def test_a_fit_pretrains_first(monkeypatch):
    """It takes a third of the time and the seed, and the fit goes on with the weights."""
    made = []

    def pretrained(pictures, **more):
        made.append((pictures, more))
        return Path("run-pretraining")

    monkeypatch.setattr(fit_module, "pretrain", pretrained)
    asked = Arguments("photos", time_s=30.0, seed=3)
    left = fit_module._pretrained_first(asked, "pictures", {"device": "cpu"}, "run", None)
    [(pictures, more)] = made
    assert pictures == "pictures" and more["out"] == Path("run-pretraining")
    assert more["time"] == 10.0 and more["seed"] == 3 and more["device"] == "cpu"
    assert left.pretrained == "run-pretraining" and 20 < left.time_s <= 30


def test_a_probe_tells_classes(finished, classes, capsys, monkeypatch):
    arguments = ["probe", str(finished), str(classes), "--shots", "1,3", "--draws", "3", "--json"]
    assert run(*arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert [one["shots"] for one in first["shots"]] == [1, 3, None]
    assert first["width"] == 16 and first["known"] + first["asked"] < 32
    for one in first["shots"]:
        assert 0 <= one["knn"] <= 1 and (one["shots"] is None) == (one["knn_interval"] is None)

    def asked(*_):
        raise AssertionError("features are kept, and no network is asked again")

    monkeypatch.setattr("vitrail.jobs.probe.Embedded.forward", asked)
    assert run(*arguments) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_classes_that_a_run_did_not_learn_are_named(finished, classes, tmp_path, capsys):
    """A pretraining learned none; of a fit those are named that are new to it."""
    fitted = shutil.copytree(finished, tmp_path / "fitted")
    labels = json.loads((fitted / "labels.json").read_text())
    (fitted / "labels.json").write_text(json.dumps(labels | {"classes": ["cat", "cow"]}))
    for one, said in ((finished, False), (fitted, True)):
        assert run("probe", str(one), str(classes), "--shots", "1", "--draws", "1") == 0
        told = capsys.readouterr().out
        assert (f"dog: {one} did not learn to tell these" in told) is said
        assert ("cat" in told) is False


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--shots", "0"], "give numbers from 1"),
        (["--shots", "some"], "expected whole numbers"),
        (["--shots", "50"], "labelled images to learn from, and 50 of each"),
        (["--draws", "0"], "--draws 0 is below 1"),
    ],
)
def test_what_cannot_be_probed(finished, classes, capsys, more, said):
    assert said in refused(capsys, "probe", str(finished), str(classes), *more)


def test_classes_apart_are_told_apart():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    features = np.eye(3)[labels] @ random.normal(size=(3, 20)) * 3 + random.normal(size=(120, 20))
    held = np.arange(120) % 4 == 0
    for tell in (nearest, least_squares):
        told_ = tell(features[~held], labels[~held], features[held])
        assert (told_ == labels[held]).mean() > 0.95
        shuffled = random.permutation(labels)
        told_ = tell(features[~held], shuffled[~held], features[held])
        assert (told_ == shuffled[held]).mean() < 0.7


def test_more_labels_tell_more():
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 60)
    features = np.eye(4)[labels] @ random.normal(size=(4, 12)) + random.normal(size=(240, 12))
    known = np.arange(240) % 2 == 0
    found = few_shots(
        features[known], labels[known], features[~known], labels[~known], shots=[1, 10, None],
        draws=8,
    )  # fmt: skip
    assert [one.linear for one in found] == sorted(one.linear for one in found)
    low, high = found[0].linear_interval
    assert low < found[0].linear < high and found[2].linear_interval is None
    again = few_shots(
        features[known], labels[known], features[~known], labels[~known], shots=[1], draws=8
    )
    assert again[0] == found[0]


def test_the_linear_penalty_is_that_of_leaving_one_out():
    """The shortcut by leverages is the mean over fits that leave each image out."""
    random = np.random.default_rng(2)
    x, labels = random.normal(size=(12, 3)), np.arange(12) % 2
    marks = np.where(labels[:, None] == [0, 1], 1.0, -1.0)
    scale = x.std() + 1e-12
    errors = []
    for penalty in (0.01, 1.0):
        left = []
        for row in range(12):
            kept = np.arange(12) != row
            z = (x - x.mean(0)) / scale
            a = np.hstack([z[kept], np.ones((11, 1))])
            ridge = np.diag([penalty * 12] * 3 + [0.0])
            weights = np.linalg.solve(a.T @ a + ridge, a.T @ marks[kept])
            left.append((marks[row] - np.append(z[row], 1) @ weights) ** 2)
        errors.append(np.mean(left))
    found = [left_out_error(x, labels, penalty) for penalty in (0.01, 1.0)]
    assert found == pytest.approx(errors, rel=1e-6)
