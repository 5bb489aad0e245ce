"""Linear models on frozen features, beside the other baselines."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from vitrail.data.cache import pixels
from vitrail.data.labels import Labels
from vitrail.data.split import unseal
from vitrail.models import create
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data
from vitrail.run.frozen import frozen_features
from vitrail.run.reading import Hardware, read
from vitrail.run.view import View
from vitrail.tasks import Classification
from vitrail.tasks.baselines import Features, linear_on, scores_on
from vitrail.tasks.task import Outputs


def planted(n, random):
    """Features among noise of which two directions tell three classes."""
    labels = random.integers(0, 3, n)
    features = random.normal(size=(n, 40)).astype(np.float32)
    features[:, 7] += 6 * (labels == 1)
    features[:, 9] += 6 * (labels == 2)
    return features * 50 + 3, labels


def test_a_linear_model_reads_what_features_tell():
    random = np.random.default_rng(0)
    (train, known), (test, truth) = planted(300, random), planted(200, random)
    answers = linear_on(Features("x", train, test), known)
    assert answers.dtype == np.int64 and (answers == truth).mean() > 0.95
    scores = scores_on(Features("x", train, test), np.eye(3)[known])
    assert scores.shape == (200, 3) and (scores.argmax(1) == truth).mean() > 0.95
    one = scores_on(Features("x", train, test), np.eye(3)[known][:, 1:2])
    assert one.shape == (200, 1) and ((one[:, 0] > 0.5) == (truth == 1)).mean() > 0.9


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A workshop on two classes of pictures, and weights that somebody published."""
    from safetensors.torch import save_file

    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name, level in (("dark", 0), ("bright", 120)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            image = random.integers(level, level + 100, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{number}.png")
    view = View(Console(file=StringIO()))
    found = read(Data(str(tmp_path / "photos")), Hardware("cpu"), view).workshop
    torch.manual_seed(0)
    donor = create("cct_2_3x2_32")
    save_file(
        {k: v.contiguous() for k, v in donor.state_dict().items()}, tmp_path / "a.safetensors"
    )
    config = replace(donor.config, classes=2)
    data = Data("x", image=(32, 32), channels=3, mean=(0.4,) * 3, std=(0.2,) * 3)
    recipe = default(config, data, images=28, total=10, pretrained=str(tmp_path / "a.safetensors"))
    return found, recipe, donor


def test_features_are_those_of_the_weights_before_any_training(shop):
    workshop, recipe, donor = shop
    test = pixels(unseal(workshop.split.test), (32, 32), 3, progress=False)
    found = frozen_features(recipe, workshop, test, most=9)
    assert found is not None and found.train.shape[0] == 9
    images = torch.from_numpy(test.take(np.arange(len(test)))).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = donor.eval().embedding((images - 0.4) / 0.2)
    assert np.allclose(found.test, expected.numpy(), atol=1e-4)
    other = pixels(unseal(workshop.split.test), (16, 16), 3, progress=False)
    again = frozen_features(recipe, workshop, other, most=9)
    assert again is not None and np.array_equal(again.test, found.test)
    assert frozen_features(replace(recipe, pretrained=None), workshop, test) is None


def test_they_stand_among_the_baselines(shop):
    workshop, *_ = shop
    test = pixels(unseal(workshop.split.test), (32, 32), 3, progress=False)
    train = workshop.pixels("train", (32, 32), 3)
    truth = torch.from_numpy(test.labels)
    labels = Labels(workshop.split.classes, (32, 32), 3, (0.4,) * 3, (0.2,) * 3)
    outputs = Outputs(torch.eye(2)[truth], truth)
    frozen = Features("frozen features", train.labels[:, None] * 1.0, test.labels[:, None] * 1.0)
    told = Classification().against(train, test, outputs, labels, frozen)
    assert [one.name for one in told][-1] == "linear model on frozen features"
    assert told[-1].accuracy == 1 and told[-1].ahead is not None
    names = [one.name for one in Classification().against(train, test, outputs, labels)]
    assert "linear model on frozen features" not in names and len(names) == 3
