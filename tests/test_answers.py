"""What teachers say is computed once where each image has one view or two, and looked up then."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from support.pictures import write_classes
from test_teachers import CLASSES, recipe_of, run_of

from vitrail.cli import main
from vitrail.data.augment import Augment
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.policies import AutoAugment
from vitrail.data.split import divide
from vitrail.errors import ConfigError, VitrailError
from vitrail.jobs.fit import fit
from vitrail.methods import Freeze
from vitrail.models.trunk.backbone import Isotropic
from vitrail.objectives import CrossEntropy, Distillation
from vitrail.run.teachers import Teacher
from vitrail.run.workshop import Workshop

STILL = Augment(flip=0.0, shift=0.0)
MIRRORED = Augment(flip=0.5, shift=0.0)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    photos = write_classes(tmp_path_factory.mktemp("data") / "photos", dict.fromkeys(CLASSES, 16))
    return divide(inspect(open_source(str(photos)), progress=False))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "answers"


@pytest.fixture
def asked(monkeypatch):
    """Count the pictures that teachers see."""
    seen, forward = [], Teacher.forward

    def counting(self, images):
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Teacher, "forward", counting)
    return seen


def trained(split, teacher, folder, augment, **changes):
    workshop = Workshop(split, device="cpu")
    value = Distillation(str(teacher), **changes)
    recipe = recipe_of(workshop, value)
    recipe = replace(recipe, augment=augment, steps=replace(recipe.steps, total=12, batch=8))
    return workshop.train(recipe, folder, 12).model.state_dict()


def test_views_are_counted():
    assert STILL.views == 1 and replace(STILL, repeats=3).views == 1
    assert MIRRORED.views == 2
    more = {
        "shift": 0.1, "scale": (0.5, 1.0), "randaugment": (2, 9), "mixup": 0.2, "cutmix": 1.0,
        "erasing": 0.25, "policy": AutoAugment(),
    }  # fmt: skip
    for name, value in more.items():
        assert replace(STILL, **{name: value}).views is None, name


@pytest.mark.parametrize(("augment", "views"), [(STILL, 1), (MIRRORED, 2)])
@pytest.mark.parametrize("outputs", ["hard", "soft"])
def test_answers_that_are_looked_up_train_as_those_that_are_asked_for(
    split, tmp_path, cache, asked, monkeypatch, augment, views, outputs
):
    run_of(tmp_path / "run")
    found = trained(split, tmp_path / "run", tmp_path / "once", augment, outputs=outputs)
    assert sum(asked) == views * len(split.train)
    [file] = cache.iterdir()
    again = trained(split, tmp_path / "run", tmp_path / "again", augment, outputs=outputs)
    assert sum(asked) == views * len(split.train)
    assert all(torch.equal(found[name], again[name]) for name in found)
    file.unlink()
    monkeypatch.setenv("VITRAIL_CACHE_LIMIT", "10B")
    computed = trained(split, tmp_path / "run", tmp_path / "each", augment, outputs=outputs)
    assert sum(asked) == views * len(split.train) + 12 * 8
    for name, value in found.items():
        torch.testing.assert_close(value, computed[name], rtol=1e-3, atol=1e-5)


def test_other_pictures_are_asked_about_in_every_step(split, tmp_path, cache, asked):
    run_of(tmp_path / "run")
    trained(split, tmp_path / "run", tmp_path / "student", Augment(flip=0.5, shift=0.1))
    assert sum(asked) == 12 * 8 and not cache.exists()


def test_another_teacher_has_answers_of_its_own(split, tmp_path, cache, asked):
    for seed in (1, 2):
        run_of(tmp_path / f"run{seed}", seed=seed)
        trained(split, tmp_path / f"run{seed}", tmp_path / f"student{seed}", STILL)
    one, other = (np.fromfile(file, np.uint8) for file in cache.iterdir())
    assert one.shape == other.shape and not np.array_equal(one, other)


def test_a_short_training_is_not_worth_asking_about_every_image(split, tmp_path, cache, asked):
    run_of(tmp_path / "run")
    workshop = Workshop(split, device="cpu")
    recipe = recipe_of(workshop, Distillation(str(tmp_path / "run")))
    recipe = replace(recipe, augment=MIRRORED, steps=replace(recipe.steps, total=2, batch=8))
    workshop.train(recipe, tmp_path / "student", 2)
    assert sum(asked) == 2 * 8 and not cache.exists()


def test_a_teacher_of_other_classes_leaves_no_run_behind(tmp_path, capsys):
    photos = write_classes(tmp_path / "photos", dict.fromkeys(("cat", "horse"), 8))
    run_of(tmp_path / "teacher")
    settings = {
        "model": "cct_2_3x2_32", "model.image": "16,16", "data": photos,
        "objective": "distillation", "objective.teacher": tmp_path / "teacher",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with pytest.raises(SystemExit) as caught:
        main(["train", *words, "--out", str(tmp_path / "run")])
    assert caught.value.code == 2 and not (tmp_path / "run").exists()
    assert "tells cat, dog apart and this training cat, horse" in capsys.readouterr().err


def test_a_teacher_of_other_classes_is_refused(split, tmp_path):
    run_of(tmp_path / "run", classes=("cat", "horse"))
    with pytest.raises(ConfigError, match="run tells cat, horse apart and this training cat, dog"):
        trained(split, tmp_path / "run", tmp_path / "student", STILL)


# ---- features of a linear probe ---------------------------------------------------------


@pytest.mark.parametrize(("augment", "views"), [(STILL, 1), (MIRRORED, 2)])
def test_a_probe_on_features_that_are_kept_is_that_on_the_images(
    split, tmp_path, cache, monkeypatch, augment, views
):
    seen, embedding = [], Isotropic.embedding

    def counting(self, image):
        if not image.is_meta:  # where memory is counted nothing is computed
            seen.append(len(image))
        return embedding(self, image)

    def probe(folder):
        workshop = Workshop(split, device="cpu")
        recipe = replace(recipe_of(workshop, CrossEntropy()), methods=(Freeze(),), augment=augment)
        recipe = replace(recipe, steps=replace(recipe.steps, total=12, batch=8))
        seen.clear()
        return workshop.train(recipe, folder, 12)

    monkeypatch.setattr(Isotropic, "embedding", counting)
    kept = probe(tmp_path / "kept")
    assert sum(seen) == views * len(split.train)
    [file] = cache.iterdir()
    again = probe(tmp_path / "again").model.state_dict()
    assert not seen
    assert all(torch.equal(value, again[name]) for name, value in kept.model.state_dict().items())
    monkeypatch.setenv("VITRAIL_CACHE_LIMIT", "10B")
    file.unlink()
    computed = probe(tmp_path / "each")
    assert sum(seen) == 12 * 8
    for one, other in ((kept.model, computed.model), (kept.ema_model, computed.ema_model)):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-6)


# ---- a teacher in a fit ----------------------------------------------------------------


def test_a_fit_says_who_taught(tmp_path):
    photos = write_classes(tmp_path / "photos", dict.fromkeys(CLASSES, 24))
    run_of(tmp_path / "teacher")
    (tmp_path / "teacher" / "result.json").write_text(
        '{"model": {"name": "cct", "title": "CCT of two"}, "test": {"accuracy": 0.912}}'
    )
    said = Console(file=StringIO(), width=200)
    made = fit(
        photos, teacher=tmp_path / "teacher", params="400k", time="6s", threads=1,
        settings=["augment.shift=0", "augment.flip=0"], out=tmp_path / "run", console=said,
    )  # fmt: skip
    recipe = json.loads((made / "recipe.json").read_text())
    assert recipe["objective"]["teacher"] == str(tmp_path / "teacher")
    who = f"{tmp_path / 'teacher'} (CCT of two, 91.2 % on its own test images)"
    assert made.result["model"]["taught_by"] == who
    assert f"all candidates are taught by {who}" in said.file.getvalue()
    assert "taught by | " in (made / "README.md").read_text()
    assert "what its teacher says" in (made / "report.html").read_text()
    assert '"teacher"' in (made / "metrics.jsonl").read_text()


def test_a_teacher_that_cannot_teach_costs_no_time(tmp_path):
    photos = write_classes(tmp_path / "photos", dict.fromkeys(("cat", "horse"), 8))
    run_of(tmp_path / "teacher")
    for words, settings, said in [
        ({"teacher": tmp_path / "teacher"}, (), "tells cat, dog apart and this training cat, hor"),
        ({"teacher": tmp_path / "nowhere"}, (), "nowhere does not exist"),
        ({"teacher": "a"}, ("objective.teacher=b",), "say twice what is learned"),
        ({"teacher": " "}, (), "--teacher is empty"),
    ]:
        with pytest.raises(VitrailError, match=said):
            fit(photos, settings=settings, out=tmp_path / "run", time="6s", **words)
        assert not (tmp_path / "run").exists()
