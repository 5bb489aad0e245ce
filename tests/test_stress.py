"""A finished run under stress: attacked, on corrupted pictures, its own images or others."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pyautoattack
import pytest
import torch
from support.pictures import write_classes
from test_cli import refused
from test_cli import run as command
from test_evaluate import drawn
from test_export import LABELS
from test_run_folder import small

from vitrail import models
from vitrail.attacks.autoattack import members
from vitrail.attacks.ball import Ball
from vitrail.attacks.suite import attacked, ball_of, suite
from vitrail.commands.evaluate import _show_stress
from vitrail.data.cache import pixels
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import Part
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.jobs import attacking
from vitrail.jobs import stress as stresses
from vitrail.jobs.attacking import Subject
from vitrail.jobs.evaluate import _asker, evaluate
from vitrail.jobs.stress import Stress, stressed
from vitrail.jobs.train import train_recipe
from vitrail.report.stress import AttackFacts
from vitrail.run.folder import RunFolder
from vitrail.run.judge import own_test
from vitrail.tasks import Classification, MultiLabel


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    model = small()
    with RunFolder.create(tmp_path / "run") as folder:
        folder.save_model(model, {"model": models.config_json(model.config)}, LABELS)
    return tmp_path / "run"


@pytest.fixture
def photos(run, tmp_path):
    """Images that the run answers rightly, but for two."""
    model, _, labels = RunFolder.open(run).load_model()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (9, 28, 28, 1), dtype=np.uint8)
    with torch.no_grad():
        answers = [labels.classes[i] for i in model(labels.normalised(images)).argmax(1).tolist()]
    wrong = {"cat": "dog", "dog": "cow", "cow": "cat"}
    answers[:2] = [wrong[name] for name in answers[:2]]
    return drawn(tmp_path / "photos", answers, images=images)


@pytest.fixture
def few_queries(monkeypatch):
    """AutoAttack, whose last attack asks a hundredth as often."""

    class Short(pyautoattack.AutoAttack):
        def __init__(self, *args, **words):
            super().__init__(*args, **words)
            self.square.n_queries = 50

    monkeypatch.setattr(pyautoattack, "AutoAttack", Short)


@pytest.fixture
def short(monkeypatch, few_queries):
    """Attacks and corruptions that take no time."""
    own = suite
    monkeypatch.setattr(attacking, "suite", lambda ball, classes: own(ball, classes, 4))
    few = {name: stresses.CORRUPTIONS[name] for name in ("fog", "jpeg_compression")}
    monkeypatch.setattr(stresses, "CORRUPTIONS", few)


def test_attacks_and_corruptions_are_paged(capsys, run, photos, short):
    words = ["evaluate", str(run), str(photos), "--attack", "linf:128/255", "--autoattack"]
    assert command(*words, "--corruptions", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    attack, corruptions = figures["attack"], figures["corruptions"]
    rows = {row["name"]: row["accuracy"] for row in attack["rows"]}
    assert rows["none"] == figures["test"]["accuracy"] == pytest.approx(7 / 9)
    others = [rows[name] for name in rows if name not in ("none", "all of them")]
    assert len(others) == 4 and max(others) <= rows["none"]
    assert attack["members"] == ["APGD-CE", "APGD-DLR", "FAB-T", "Square"]
    assert rows["AutoAttack"] < rows["none"]
    assert rows["all of them"] <= min(others) < rows["none"]
    # Classes are uneven, so the main score is the balanced one.
    assert corruptions["score"] == "balanced accuracy"
    assert corruptions["clean"] == pytest.approx(figures["test"]["balanced"])
    assert {name: len(row) for name, row in corruptions["rows"].items()} == {
        "fog": 5, "jpeg_compression": 5,
    }  # fmt: skip
    where = run / "evaluations" / "photos"
    page = (where / "report.html").read_text()
    assert "Under attack" in page and "128/255 in the maximum norm" in page
    assert "On corrupted pictures" in page and "JPEG compression" in page
    assert "--attack linf:128/255 --autoattack --corruptions" in page
    assert "AutoAttack is APGD-CE, APGD-DLR, FAB-T, Square in this order" in page
    told = json.loads((where / "result.json").read_text())
    assert {"n": figures["n"], **told} == figures
    _show_stress(told)
    table = capsys.readouterr().out
    assert "attack, 9 images" in table and "all of them" in table and "fog" in table
    assert "in the mean of all" in table


def test_what_was_found_is_not_looked_for_again(run, photos, short, monkeypatch):
    folder = RunFolder.open(run)
    model, _, labels = folder.load_model()
    ask = _asker(folder, model, labels, None)
    one = Subject(folder, Classification(), model, labels, ask, run)
    images, asked = whole(photos), Stress("l2:1", corruptions=True, images=5)
    _, first = stressed(asked, one, images)
    assert first["attack"]["n"] == 5 and first["attack"]["norm"] == "l2"

    def never(*_, **__):
        raise AssertionError("looked for again")

    with monkeypatch.context() as patched:
        patched.setattr(attacking, "_pairs", lambda *_: [])
        patched.setattr(stresses, "_gallery", lambda *_: [])
        patched.setattr(attacking, "attacked", never)
        patched.setattr(stresses, "corrupted", never)
        assert stressed(asked, one, images)[1] == first
        for other in (replace(asked, attack="l2:2"), replace(asked, images=6)):
            with pytest.raises(AssertionError, match="looked for again"):
                stressed(other, one, images)
    (run / "stress.json").write_text("{")
    with pytest.raises(RunError, match=r"stress\.json is damaged .* remove it, and evaluate"):
        stressed(asked, one, images)


def whole(photos, turned=False):
    """The pixels of all images, in the order of their files or the other way round."""
    found = inspect(open_source(str(photos)), progress=False, least=1)
    rows = slice(None, None, -1 if turned else 1)
    part = Part(found.source, found.rows[rows], found.digests[rows])
    return pixels(part, (28, 28), 1, progress=False)


def test_an_attack_leaves_wrong_answers_and_global_randomness_alone():
    model = small().double().requires_grad_(False)
    pixels = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        labels = model(pixels).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    attack = suite(Ball("linf", 0.2), 3, 3)["PGD-20"]
    before = torch.get_rng_state()
    right, moved = attacked(model, pixels, labels, attack)
    assert torch.get_rng_state().equal(before)
    assert not right[0] and moved[0].equal(pixels[0])
    assert (moved - pixels).abs().max() <= 0.2 + 1e-12
    with torch.no_grad():
        assert np.array_equal(right, (model(moved).argmax(1) == labels).numpy())
    again, _ = attacked(model, pixels, labels, attack)
    assert np.array_equal(again, right)


def test_two_classes_are_spared_the_ratio_of_three_logits():
    assert [*suite(Ball(), 2)] == ["PGD-20", "Auto-PGD, cross entropy"]
    assert [*suite(Ball(), 3)][2:] == ["Auto-PGD, logit ratio"]


@pytest.mark.parametrize(("norm", "classes"), [("linf", 2), ("linf", 3), ("linf", 5), ("l2", 5)])
def test_autoattack_agrees_with_what_is_known_of_linear_models(norm, classes, few_queries):
    """How far an answer of a linear model is from wrong is its margin over a dual norm."""
    torch.manual_seed(0)
    weight, pixels = torch.randn(classes, 36), torch.rand(40, 1, 6, 6) * 0.2 + 0.4

    def model(moved):
        return moved.flatten(1) @ weight.T

    logits = model(pixels)
    truth = logits.argmax(1)
    apart = (weight[truth][:, None] - weight[None]).norm(1 if norm == "linf" else 2, dim=2)
    margin = logits.gather(1, truth[:, None]) - logits
    safe = (margin / apart).nan_to_num(nan=1.0).amin(1)
    radius = safe.median().item()
    clear = ((safe - radius).abs() > 0.02 * radius).numpy()
    left = np.ones(40, bool)
    ball, by = Ball(norm, radius), {}
    for name, attack in members(ball, classes).items():
        rows = torch.from_numpy(left.copy())
        by[name], moved = attacked(model, pixels[rows], truth[rows], attack)
        left[left] = by[name]
        away = (moved - pixels[rows]).flatten(1).norm(torch.inf if norm == "linf" else 2, dim=1)
        assert away.max() <= radius * (1 + 1e-5)
    assert np.array_equal(left[clear], safe.numpy()[clear] > radius) and 15 < left.sum() < 25
    names = {2: ["APGD-CE"], 3: ["APGD-CE", "APGD-DLR"], 5: ["APGD-CE", "APGD-T"]}[classes]
    assert [*by] == [*names, "FAB-T", "Square"]


def test_a_ball_is_spoken_of_in_levels():
    assert AttackFacts("linf", 4 / 255, 1, ()).ball == "4/255 in the maximum norm"
    assert AttackFacts("l2", 0.5, 1, ()).ball == "0.5 in the Euclidean norm"
    assert ball_of(" L2: 0.5") == Ball("l2", 0.5)


def test_the_sample_is_the_same_whatever_the_order(run, photos):
    every = whole(photos)
    some, other = stresses.sample(every, 4), stresses.sample(whole(photos, turned=True), 4)
    assert len(some) == 4 and set(some.keys) == set(other.keys)
    keys = list(every.keys)
    for row, key in enumerate(some.keys):
        assert np.array_equal(some.take([row])[0], every.take([keys.index(key)])[0])


# ---- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("linf", "'linf' is not a norm and a radius: give linf:4/255"),
        ("linf:4/0", "is not a norm and a radius"),
        ("linf:nan", "is not a norm and a radius"),
        ("linf:x", "is not a norm and a radius"),
        ("l1:3", "norm 'l1' is unknown: give one of linf, l2"),
        ("linf:2", "radius 2 is beyond the pixels' range of 0 to 1: 4/255 is usual"),
        ("linf:-1/255", "is not above 0"),
        ("l2:0", "radius 0 is not above 0: 0.5 is usual"),
        ("l2:500", "radius 500 is beyond the pixels' range"),
    ],
)
def test_attacks_that_cannot_be(capsys, run, photos, attack, said):
    assert said in refused(capsys, "evaluate", str(run), str(photos), f"--attack={attack}")


def test_autoattack_needs_a_ball_and_its_package(capsys, run, photos, monkeypatch):
    words = ["evaluate", str(run), str(photos), "--autoattack"]
    assert "give --attack linf:4/255 besides" in refused(capsys, *words)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    said = refused(capsys, *words, "--attack", "linf:4/255")
    assert "AutoAttack needs a package that is not installed: pip install" in said


def test_an_engine_has_no_gradients(capsys, run, photos):
    words = ["evaluate", str(run), str(photos), "--engine", "onnxruntime"]
    said = refused(capsys, *words, "--attack", "linf:4/255")
    assert "engine onnxruntime computes no gradients" in said
    assert "images is 0" in refused(capsys, "evaluate", str(run), str(photos), "--images", "0")


def test_several_labels_are_not_attacked(run):
    labels = replace(LABELS, several=True)
    with pytest.raises(ConfigError, match="tells several labels: leave out --attack"):
        Stress("linf:4/255").check(MultiLabel(), labels, None)
    Stress(corruptions=True).check(MultiLabel(), labels, "onnxruntime")


# ---- a run's own test images -----------------------------------------------------------


def test_a_run_without_data_asks_for_images(capsys, run):
    assert "does not say what it learned from: give labelled data" in refused(
        capsys, "evaluate", str(run)
    )


@pytest.mark.slow  # trains, exports and reports
def test_a_run_is_judged_by_its_own_test_images(tmp_path, monkeypatch, short):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    photos = write_classes(tmp_path / "photos", {"cat": 20, "dog": 20})
    settings = [
        "recipe=robust_light", "model=cct_2_3x2_32", f"data={photos}", "model.image=16,16",
        "model.dim=16", "model.depth=1", "steps.batch=8", "steps.total=3",
    ]  # fmt: skip
    out = train_recipe(settings, out=tmp_path / "run", threads=1, device="cpu")
    told = json.loads((out / "result.json").read_text())["test"]
    found = evaluate(out, stress=Stress("linf:8/255", corruptions=True))
    assert found.n == told["n"] and found.figures["test"]["accuracy"] == told["accuracy"]
    assert found.folder.name == "photos-test" and found.figures["attack"]["n"] == told["n"]
    folder = RunFolder.open(out)
    recipe = json.loads(folder.recipe.read_text())
    next(photos.rglob("*.png")).unlink()
    with pytest.raises(RunError, match="the images are not those"):
        own_test(folder, recipe)
    with pytest.raises(DataError, match="learned from is gone"):
        own_test(folder, recipe | {"data": recipe["data"] | {"spec": str(tmp_path / "nothing")}})
    folder.result.unlink()
    with pytest.raises(RunError, match="is not finished, so its test part is sealed"):
        own_test(folder, recipe)
