"""A network that answers by an image and by its mirror image."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from test_export import LABELS, images
from test_run_folder import small

from vitrail import models
from vitrail.attribution import explain
from vitrail.data.augment import Augment
from vitrail.engines.onnx import export_onnx
from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.methods import BothSides
from vitrail.methods.both_sides import removed
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.budget import Budget
from vitrail.run.finish import Trained
from vitrail.run.folder import RunFolder
from vitrail.run.sides import sided
from vitrail.run.subject import subject
from vitrail.tasks import Segmentation
from vitrail.tasks.task import Scores
from vitrail.training.steps import Steps

FAMILIES = ("resnet", "vit")


@pytest.fixture(params=FAMILIES)
def pair(request):
    """The same network twice: as it is, and answering by both sides."""
    plain, both = small(request.param).eval(), small(request.param).eval()
    both.load_state_dict(plain.state_dict())
    BothSides().check(both)
    return plain, BothSides().apply(both)


def test_the_answer_is_the_mean_of_two_and_turning_the_image_does_not_change_it(pair):
    plain, both = pair
    image = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        expected = (plain(image) + plain(image.flip(-1))) / 2
        assert torch.equal(both(image), expected)
        assert (both(image.flip(-1)) - both(image)).abs().max() < 1e-6
        assert (deploy(both)(image) - expected).abs().max() < 1e-5
        assert torch.equal(both.features(image)[-1], plain.features(image)[-1])
        assert torch.equal(removed(both)(image), plain(image))
    assert set(both.state_dict()) == set(plain.state_dict())


def test_training_sees_one_side(pair):
    plain, both = (model.train() for model in pair)
    image = torch.randn(4, 1, 28, 28)
    assert torch.equal(both(image), plain(image))


def test_an_explanation_is_of_the_image_as_it_is(pair):
    plain, both = pair
    image = torch.randn(1, 28, 28)
    expected, method = explain(plain, image, 1)
    found, same = explain(both, image, 1)
    assert method == same and np.array_equal(found, expected)


def test_a_run_and_its_file_answer_by_both_sides(tmp_path):
    model = BothSides().apply(small().eval())
    facts = {"model": models.config_json(model.config), "methods": [{"kind": "both_sides"}]}
    with RunFolder.create(tmp_path / "run") as folder:
        folder.save_model(model, facts, LABELS)
        export_onnx(model, LABELS, folder.onnx, images=images(32))
    loaded, _, labels = folder.load_model()
    pictures = images(5)
    with torch.no_grad():
        expected = loaded(labels.normalised(pictures)).numpy()
        assert np.abs(expected - model(labels.normalised(pictures)).numpy()).max() < 1e-6
    session = onnxruntime.InferenceSession(folder.onnx)
    for shown in (pictures, pictures[:, :, ::-1]):
        assert np.abs(session.run(None, {"images": shown})[1] - expected).max() < 1e-4


def test_it_is_refused_twice_and_where_answers_are_maps():
    model = BothSides().apply(small())
    with pytest.raises(ConfigError, match="twice"):
        BothSides().check(model)
    with pytest.raises(ConfigError, match="whole images"):
        BothSides().check(torch.nn.Linear(2, 2))


# ---- whether a fit takes it ------------------------------------------------------------


def trained(**changes):
    """A trained model with 80 % of 100 validation images right, and a loss of 0.5."""
    model = small()
    recipe = Recipe(
        models.config_json(model.config), Data("photos"), Steps(1, 1), augment=Augment(flip=0.5)
    )
    about = subject(model.config)
    return Trained(about, replace(recipe, **changes), model, Scores(0.8, 0.5, 100))


def asked(one, main, loss, budget=None):
    workshop = SimpleNamespace(validate=lambda model, recipe: Scores(main, loss, 100))
    return sided(one, workshop, budget or Budget())  # pyright: ignore[reportArgumentType]


def test_a_fit_takes_both_sides_where_they_are_better():
    one = trained()
    found = asked(one, 0.82, 0.45)
    assert found is not None and found.trained.recipe.methods == (BothSides(),)
    assert found.trained.subject.macs == 2 * one.subject.macs
    assert "is 82.0%, where one side has 80.0%" in found.sentence
    assert asked(one, 0.8, 0.45) is not None


@pytest.mark.parametrize(("main", "loss"), [(0.79, 0.4), (0.81, 0.5), (0.8, 0.5)])
def test_a_fit_keeps_one_side_where_they_are_not(main, loss):
    assert asked(trained(), main, loss) is None


def test_a_fit_keeps_one_side_without_flips_of_maps_and_over_the_budget():
    assert asked(trained(augment=Augment(flip=0.0)), 0.9, 0.1) is None
    assert asked(trained(task=Segmentation()), 0.9, 0.1) is None
    one = trained()
    assert asked(one, 0.9, 0.1, Budget(macs=2 * one.subject.macs - 1)) is None
    assert asked(one, 0.9, 0.1, Budget(macs=2 * one.subject.macs)) is not None
