"""The first rung: linear heads in closed form, features that are kept, and what begins there."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import vitrail
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.jobs.fitting import Fitting
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data, amend
from vitrail.run import features as kept
from vitrail.run.budget import Budget
from vitrail.run.finish import Trained
from vitrail.run.workshop import Workshop
from vitrail.search import first_rung
from vitrail.search.rungs import Runner
from vitrail.search.shelf import shelf
from vitrail.tasks.linear_head import PENALTIES, LinearHead, fit_head
from vitrail.tasks.task import Scores


def clouds(n, d, classes=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = random.normal(size=(classes, d))
    return (centres[labels] + random.normal(size=(n, d))).astype(np.float32), labels


@pytest.mark.parametrize(("n", "d"), [(60, 8), (24, 40)])
def test_the_head_is_ridge_regression(n, d):
    """More images than features, and fewer: what scikit-learn makes of the same, scaled."""
    from sklearn.linear_model import Ridge

    x, labels = clouds(n, d)
    head = fit_head(x, labels, 3)
    std = x.astype(float).std(0)
    other = Ridge(alpha=head.penalty).fit((x - x.mean(0)) / std, np.eye(3)[labels])
    scores = other.predict((x - x.mean(0)) / std)
    logits = head.logits(x).double().numpy()
    scale = np.ptp(logits) / np.ptp(scores)
    np.testing.assert_allclose(logits, scores * scale, rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_images_left_out():
    """In closed form what n fits would give, at the penalty and the scale that were chosen."""
    from sklearn.linear_model import Ridge

    x, labels = clouds(30, 6)
    head = fit_head(x, labels, 3)
    z = (x.astype(float) - x.mean(0, dtype=float)) / x.astype(float).std(0)
    marks, out = np.eye(3)[labels], []
    for i in range(len(z)):
        rest = np.arange(len(z)) != i
        out.append(Ridge(alpha=head.penalty).fit(z[rest], marks[rest]).predict(z[i : i + 1])[0])
    scores = Ridge(alpha=head.penalty).fit(z, marks).predict(z)
    scale = np.ptp(scores) / np.ptp(head.logits(x).numpy())
    loss = nn.functional.cross_entropy(torch.tensor(np.array(out)) / scale, torch.tensor(labels))
    assert abs(float(loss) - head.loss) < 1e-3


def test_noise_is_held_back_and_signal_is_not():
    random = np.random.default_rng(0)
    noise = random.normal(size=(40, 200)).astype(np.float32)
    labels = np.arange(40) % 2
    assert fit_head(noise, labels, 2).penalty >= PENALTIES[3]
    assert fit_head(noise, labels, 2).loss == pytest.approx(np.log(2), abs=0.05)
    x, told = clouds(120, 10)
    assert (fit_head(x, told, 3).logits(x).argmax(1).numpy() == told).mean() > 0.9
    with pytest.raises(ValueError, match="two at least"):
        fit_head(noise[:1], labels[:1], 2)


def test_a_feature_that_hardly_varies_gets_no_large_weight():
    x, labels = clouds(60, 8)
    x[:, 3] = 5 + 1e-6 * x[:, 3]
    head = fit_head(x, labels, 3)
    assert head.weight[:, 3].abs().max() < 1e-3 * head.weight.abs().max()
    assert (head.logits(x).argmax(1).numpy() == labels).mean() > 0.8


# ---- in a fit ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of 20 images of 16 pixels, each of a colour of its own, and noise."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label in range(3):
        (folder / f"c{label}").mkdir()
        for i in range(20):
            pixels = random.integers(0, 120, (16, 16, 3))
            pixels[..., label] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"c{label}" / f"{i}.png")
    return folder


def saved(path, seed):
    torch.manual_seed(seed)
    state = vitrail.create("cct_2_3x2_32").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def a_shelf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shelf")
    saved(folder / "some.safetensors", 0)
    return folder


@pytest.fixture
def workshop(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    return Workshop(divide(inspect(open_source(photos), progress=False)), device="cpu")


def recipe_of(workshop, a_shelf, **changes):
    found, _ = shelf(a_shelf, image_size=(16, 16), classes=3)
    one = min(found, key=lambda c: c.macs)
    data = workshop.data(Data(""), one.image, 3, one.pretrained)
    return one, default(one.config, data, images=40, total=8, pretrained=one.pretrained, **changes)


def test_a_training_begins_with_the_linear_model(workshop, a_shelf):
    _, recipe = recipe_of(workshop, a_shelf)
    assert recipe.head == "linear"
    model = workshop.model(recipe).eval()
    images = workshop.pixels("val", recipe.data.image, 3)
    said = workshop.outputs(model, recipe, images).values
    head = workshop.head(recipe)
    expected = head.logits(kept.features(recipe, workshop, "val"))
    torch.testing.assert_close(said, expected, rtol=1e-3, atol=1e-3)
    random = workshop.model(amend(recipe, ["head=random"]))
    assert not torch.equal(random.head.weight, head.weight)
    learner = workshop.builder.learner(recipe)
    assert torch.equal(learner.model.head.weight, head.weight)


def test_features_are_computed_once(workshop, a_shelf, monkeypatch):
    _, recipe = recipe_of(workshop, a_shelf)
    first = kept.features(recipe, workshop, "train")
    with monkeypatch.context() as patched:
        patched.setattr(workshop, "outputs", lambda *_: pytest.fail("computed again"))
        assert np.array_equal(kept.features(recipe, workshop, "train"), first)
    [file] = (kept.cache_folder() / "features").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    kept.store._fault.cache_clear()
    assert np.array_equal(kept.features(recipe, workshop, "train"), first)


def test_other_weights_have_other_features(workshop, a_shelf, tmp_path):
    _, recipe = recipe_of(workshop, a_shelf)
    path = saved(tmp_path / "other.safetensors", 1)
    other = amend(recipe, [f"pretrained={path}"])
    ours, theirs = (kept.features(one, workshop, "val") for one in (recipe, other))
    assert not np.allclose(ours, theirs)


@pytest.mark.parametrize("changes", [["task=multilabel"], ["pretrained=null"]])
def test_no_head_where_none_is_fitted(workshop, a_shelf, changes):
    _, recipe = recipe_of(workshop, a_shelf)
    assert workshop.head(amend(recipe, changes)) is None


def test_a_shelf_is_ranked_by_features(workshop, a_shelf):
    found, _ = shelf(a_shelf, image_size=(16, 16), classes=3)
    said = []
    bench = first_rung.Bench(workshop, Data(""), [], Budget(), 1e9, said.append)
    probes = first_rung.probed(found, bench)
    assert [p.order for p in probes] == sorted((p.order for p in probes), reverse=True)
    assert len(first_rung.chosen(found, probes)) == min(len(found), first_rung.BEST)
    assert any("a linear model on its features has" in line for line in said)
    hurried = first_rung.probed(
        found, first_rung.Bench(workshop, Data(""), [], Budget(), 0.0, said.append)
    )
    assert len(hurried) == 1 and hurried[0].candidate.macs == min(c.macs for c in found)
    tight = Budget(macs=1)
    assert (
        first_rung.probed(found, first_rung.Bench(workshop, Data(""), [], tight, 9.0, said.append))
        == []
    )


def test_a_fit_tells_of_features(photos, tmp_path, a_shelf):
    run = vitrail.fit(
        photos, time="5s", threads=1, out=tmp_path / "run", pretrained=a_shelf, params="1M"
    )
    told = [c for c in run.result["candidates"] if c["status"] == "features"]
    state = json.loads((run / "fit.json").read_text())
    assert told and [c["accuracy"] for c in told] == [p["accuracy"] for p in state["features"]]
    assert all(c["steps"] == 0 and c["name"].endswith("-features") for c in told)
    assert "features" in (run / "report.html").read_text()


def test_a_training_that_makes_it_worse_is_not_kept(workshop, a_shelf):
    """Else the run is what was trained; what is kept is told."""
    one, recipe = recipe_of(workshop, a_shelf)
    said: list[str] = []
    fitting: Any = object.__new__(Fitting)
    fitting.workshop, fitting.view = workshop, SimpleNamespace(say=said.append)
    fitting.desk = SimpleNamespace(notes=[])
    runner = Runner(one, recipe, (8,))
    bad, good = (Trained(one, recipe, nn.Identity(), Scores(v, 9.0, 9)) for v in (-1.0, 2.0))
    assert fitting._no_worse(good, runner) is good and not said
    kept_one = fitting._no_worse(bad, runner)
    start = workshop.model(recipe).eval()
    assert kept_one.scores == workshop.validate(start, recipe)
    assert "the linear model on features is kept" in said[0]
    assert [note.message for note in fitting.desk.notes] == said
    plain = replace(runner, recipe=amend(recipe, ["head=random"]))
    assert fitting._no_worse(bad, plain) is bad


def test_a_head_of_another_kind_is_left_alone():
    head = LinearHead(torch.zeros(3, 4), torch.zeros(3), 1.0, 0.0)
    assert head.fits(nn.Linear(4, 3)) and not head.fits(nn.Linear(5, 3))
    assert not head.fits(nn.Identity()) and not head.fits(nn.Linear(4, 3, bias=False))
