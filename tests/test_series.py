"""Time series: the .ts format with its faults, standardisation, batches, a network that learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import refused
from test_cli import run as command

import vitrail
from vitrail.checkpoint import save
from vitrail.data import uea
from vitrail.errors import CheckpointError, ConfigError, DataError, RunError
from vitrail.models import config_json
from vitrail.models.evolving_series import Config
from vitrail.models.trunk.backbone import input_kind, input_shape
from vitrail.recipes.pretrained import start
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.adopt import adopt
from vitrail.search.shelf import shelf
from vitrail.training.objective import Step
from vitrail.training.series import Batches, SeriesLoss, fit, predict
from vitrail.training.steps import Steps

FOLDER = Path(__file__).parent / "series"
VOWELS = [FOLDER / f"JapaneseVowels_{part}.ts" for part in ("TRAIN", "TEST")]
HEADER = """# a comment
@problemName Made up
@timeStamps false
@univariate false
@dimensions 2
@equalLength false
@classLabel true up down
@data
"""


def write(folder, text):
    path = folder / "some.ts"
    path.write_text(text)
    return path


def test_real_files():
    vowels = uea.read(VOWELS[0])
    assert vowels.name == "JapaneseVowels" and vowels.classes == tuple("123456789")
    assert vowels.values.shape == (54, 26, 12) and vowels.values.dtype == np.float32
    assert vowels.mask.sum(1)[:3].tolist() == [20, 26, 22]
    assert vowels.values[0, :2, 0].tolist() == pytest.approx([1.861, 1.892])
    assert vowels.values[0, 0, 1] == pytest.approx(-0.207)
    assert (vowels.values[~vowels.mask] == 0).all()
    assert np.bincount(vowels.labels).tolist() == [6] * 9
    covid = uea.read(FOLDER / "Covid3Month_TEST.ts")
    assert covid.classes == () and covid.labels.dtype == np.float32
    assert covid.labels[0] == pytest.approx(0.011883802)
    one = uea.read(FOLDER / "UnitTest_TRAIN.ts")
    assert one.values.shape == (20, 24, 1) and one.mask.all()
    stamped = uea.read(FOLDER / "UnitTestTimeStamps_TRAIN.ts")
    assert stamped.values[0, :, 0].tolist() == pytest.approx([241.97, 241.75, 241.64, 241.71])
    assert stamped.labels.tolist() == [0, 0, 1, 1]


def test_missing_and_uneven(tmp_path):
    text = HEADER + "1,?,3:4,5:down\n\n% aside\n?,?:?,7:up\n1,2,?:?,8,?:up\n"
    found = uea.read(write(tmp_path, text))
    nan = np.nan
    expected = [
        [[1, 4], [nan, 5], [3, nan]],
        [[nan, nan], [nan, 7], [0, 0]],
        [[1, nan], [2, 8], [0, 0]],
    ]
    np.testing.assert_array_equal(found.values, np.array(expected, np.float32))
    assert found.mask.sum(1).tolist() == [3, 2, 2]
    assert found.labels.tolist() == [1, 0, 0]
    longer = found.padded(5)
    assert longer.values.shape == (3, 5, 2) and not longer.mask[:, 3:].any()
    with pytest.raises(DataError, match="3 steps, more than 2"):
        found.padded(2)


def test_without_labels(tmp_path):
    found = uea.read(write(tmp_path, "@classLabel false\n@data\n1,2:3,4\n"))
    assert found.labels is None and found.values.shape == (1, 2, 2) and found.name == "some"
    with pytest.raises(DataError, match="no labels"):
        Batches(found, batch=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line @data"),
        ("@problemName x\n1,2:a\n", "line 2: a case before @data"),
        (HEADER, "no case behind @data"),
        (HEADER + "1,2:3,4:up\n1,2:up\n", "line 10: 1 dimensions where the header tells 2"),
        (HEADER + "1,2:3,x:up\n", "line 9: 'x' is no number; write \\?"),
        (HEADER + "1,2:3,inf:up\n", "line 9: a number is infinite"),
        (HEADER + "1,2:3,,4:up\n", "line 9: '' is no number"),
        (HEADER + "1,2:3,4:left\n", "line 9: class 'left' is not among"),
        ("@timeStamps maybe\n@data\n", "line 1: @timestamps is maybe; expected true or false"),
        ("@dimensions two\n@data\n", "line 1: @dimensions is two; expected a whole number"),
        ("@classLabel true\n@data\n", "line 1: @classLabel true names no classes"),
        ("@targetLabel true\n@data\n1,2:\n", "line 3: target '' is no number"),
        ("@equalLength true\n@data\n1,2\n1\n", "line 4: 1 steps where cases before have 2"),
        ("@equalLength true\n@data\n1,2:1\n", "line 3: dimensions of several lengths"),
        ("@data\n1,2:1,2\n1\n", "line 3: 1 dimensions where cases before have 2"),
        ("@timeStamps true\n@data\n(1:00,2),3\n", "line 3: .* is not of the form \\(stamp,number"),
        ("@univariate true\n@data\n1,2:3\n", "line 3: 2 dimensions where the header tells 1"),
        ("@classLabel true a\n@data\na\n", "line 3: 0 dimensions"),
    ],
)
def test_malformed(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        uea.read(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_differ(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        uea.read(tmp_path / "none.ts")
    with pytest.raises(DataError, match="has 1 dimensions and classes 1, 2, unlike"):
        uea.read_parts(VOWELS[0], FOLDER / "UnitTest_TRAIN.ts")


def test_standard():
    """Each feature has mean 0 and deviation 1 over the steps that are there."""
    train, test = uea.read_parts(*VOWELS)
    assert train.mask.shape[1] == test.mask.shape[1]
    train.values[3, 2, 1] = np.nan
    train.values[:, :, 5] = 0.25
    standard = uea.Standard.of(train)
    found = standard.apply(train)
    there = found.values[found.mask]
    changing = np.arange(12) != 5
    assert np.abs(there.mean(0)).max() < 1e-5
    assert np.abs(there.std(0)[changing] - 1).max() < 1e-3
    assert found.values[3, 2, 1] == 0 and (found.values[~found.mask] == 0).all()
    assert not np.isnan(found.values).any()
    moved = standard.apply(test).values[test.mask]
    np.testing.assert_allclose(
        moved * standard.std + standard.mean, test.values[test.mask], atol=1e-5
    )


def test_batches():
    """Each epoch sees a case once, in an order of its own; processes share a batch."""
    train = uea.Standard.of(part := uea.read(VOWELS[0])).apply(part)
    batches = Batches(train, batch=18, seed=1)
    assert batches.steps_per_epoch == 3
    orders = [
        torch.cat([batch.indices for batch in batches.iterate(3 * e, stop=3 * e + 3)])
        for e in (0, 1)
    ]
    assert all(order.sort().values.tolist() == list(range(54)) for order in orders)
    assert not torch.equal(*orders)
    whole = batches.get(1, 2)
    shares = [batches.get(1, 2, rank=r, world=2) for r in (0, 1)]
    assert torch.equal(torch.cat([s.images for s in shares]), whole.images)
    assert torch.equal(whole.mask, torch.from_numpy(train.mask)[whole.indices])
    assert Batches(train, batch=500).steps_per_epoch == 1


def test_targets_of_a_regression():
    series = uea.read(FOLDER / "Covid3Month_TEST.ts")
    batch = Batches(series, batch=12).get(0, 0)
    outputs = torch.full((12, 1), 0.5)
    loss = SeriesLoss()(lambda x, mask: outputs, batch, Step(0, 1, 0.0))["loss"]
    assert loss.item() == pytest.approx(float(((0.5 - series.labels) ** 2).mean()))


def test_learns_who_speaks(tmp_path):
    """Nine speakers from six utterances each: chance is 11 %."""
    train, test = uea.read_parts(*VOWELS)
    standard = uea.Standard.of(train)
    train, test = standard.apply(train), standard.apply(test)
    config = Config(
        features=12,
        length=train.mask.shape[1],
        classes=9,
        dim=32,
        hidden=32,
        depth=1,
        ffn=64,
        keys=0.25,
        values=0.25,
    )
    torch.manual_seed(0)
    model = vitrail.create(config)
    outcome = fit(model, train, folder=tmp_path, epochs=15, batch=18, device="cpu")
    assert outcome.step == 45
    found = predict(model, test).argmax(1).numpy()
    assert (found == test.labels).mean() > 0.6


def test_who_wants_images_refuses_series(tmp_path, capsys):
    """And says in a sentence what the weights are, whoever is asked."""
    small = Config(features=2, length=16, dim=16, hidden=16, depth=1, heads=2, ffn=16)
    model, file = vitrail.create(small), tmp_path / "series.safetensors"
    save(file, model.state_dict(), metadata={"config": config_json(small)})
    assert (input_kind(small), input_shape(small)) == ("series", (16, 2))
    assert command("load", str(file)) == 0
    assert "2 classes, 16x2 series" in capsys.readouterr().out
    said = refused(capsys, "load", str(file), "--out", str(tmp_path / "run"))
    assert "is evolving_series, which takes series: give weights" in said
    image = vitrail.catalog()["resnet_18"].config
    with pytest.raises(CheckpointError, match="takes 16x2 series, and the model 224x224 images"):
        start(image, str(file))
    with pytest.raises(CheckpointError, match="evolving_series, a model of series: images"):
        shelf(file, image_size=(32, 32), classes=5)
    recipe = Recipe(config_json(small), Data("x"), Steps(1, 1))
    with pytest.raises(ConfigError, match="model takes 16x2 series, a recipe trains on images"):
        _ = recipe.config
    with pytest.raises(RunError, match="takes series: a run folder is of"):
        adopt(tmp_path / "run", model, source=str(file))
    assert not (tmp_path / "run").exists()
