"""Time series: .ts files and tables with their faults, the gate, a run from files to answers."""

import io
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from support.visible import of_pictures, prose, visible
from test_cli import refused
from test_cli import run as command

import vitrail
from vitrail.checkpoint import save
from vitrail.data import uea
from vitrail.data.gate import inspect
from vitrail.data.opening import task_of_data
from vitrail.data.series import open_series
from vitrail.data.series_pixels import series_pixels
from vitrail.data.split import Part, divide
from vitrail.data.uea import padded
from vitrail.errors import CheckpointError, ConfigError, DataError, RunError
from vitrail.jobs.stress import Stress
from vitrail.jobs.train import train_recipe
from vitrail.layers.normal import Normal
from vitrail.models import config_json
from vitrail.models.evolving_series import Config
from vitrail.models.trunk.backbone import input_kind, input_shape
from vitrail.recipes.pretrained import start
from vitrail.recipes.recipe import Data, Recipe, read
from vitrail.report import curves
from vitrail.run.adopt import adopt
from vitrail.run.workshop import Workshop
from vitrail.runs import Run
from vitrail.search.shelf import shelf
from vitrail.tasks.series import Series as SeriesTask
from vitrail.tasks.task import Order
from vitrail.training.steps import Steps

FOLDER = Path(__file__).parent / "series"
VOWELS = [FOLDER / "vowels" / f"JapaneseVowels_{part}.ts" for part in ("TRAIN", "TEST")]
OWN = ("dim", "hidden", "depth", "ffn", "keys", "values")
SMALL = {
    "features": 12, "length": 26, "classes": 9, "dim": 32, "hidden": 32, "depth": 1, "ffn": 64,
    "keys": 0.25, "values": 0.25,
}  # fmt: skip
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
    with pytest.raises(DataError, match="has no classes: say @classLabel true"):
        open_series(tmp_path / "some.ts")
    with pytest.raises(DataError, match="has numbers as targets"):
        open_series(FOLDER / "Covid3Month_TEST.ts")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line @data"),
        ("@problemName x\n1,2:a\n", "line 2: a case before @data"),
        (HEADER, "no case behind @data"),
        (HEADER + "1,2:3,4:up\n1,2:up\n", "line 10: 1 dimensions where the header tells 2"),
        (HEADER + "1,2:3,x:up\n", "line 9: 'x' is not a number; write \\?"),
        (HEADER + "1,2:3,inf:up\n", "line 9: a number is infinite"),
        (HEADER + "1,2:3,,4:up\n", "line 9: '' is not a number"),
        (HEADER + "1,2:3,4:left\n", "line 9: class 'left' is not among"),
        ("@timeStamps maybe\n@data\n", "line 1: @timestamps is maybe; expected true or false"),
        ("@dimensions two\n@data\n", "line 1: @dimensions is two; expected a whole number"),
        ("@classLabel true\n@data\n", "line 1: @classLabel true names no classes"),
        ("@targetLabel true\n@data\n1,2:\n", "line 3: target '' is not a number"),
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


def test_batches(vowels):
    """Each epoch sees a case once, in an order of its own; processes share a batch."""
    part = Part(vowels, np.arange(54), np.zeros((54, 2), np.uint64))
    pixels = series_pixels(part, 26)
    normal = Normal(*pixels.statistics())
    batches = SeriesTask().training(pixels, normal, Order(18, 1))
    assert batches.steps_per_epoch == 3
    orders = [
        torch.cat([batch.indices for batch in batches.iterate(3 * e, stop=3 * e + 3)])
        for e in (0, 1)
    ]
    assert all(order.sort().values.tolist() == list(range(54)) for order in orders)
    assert not torch.equal(*orders)
    whole = batches.get(1, 2)
    shares = [batches.get(1, 2, rank=r, world=2) for r in (0, 1)]
    joined = torch.cat([s.images for s in shares])
    assert torch.equal(joined.nan_to_num(9), whole.images.nan_to_num(9))
    steps = (~whole.images.isnan()).any(2).sum(1)
    assert steps.tolist() == vowels.series.mask.sum(1)[whole.indices].tolist()


def test_a_network_reads_nan_as_it_reads_a_mask(vowels):
    """What is behind the last step, and a number that is missing, is told by NaN alone."""
    series = vowels.series.taken(np.arange(6))
    model = vitrail.create(Config(**SMALL)).eval()
    mask = torch.from_numpy(series.mask)
    values = torch.from_numpy(series.values).clone()
    values[2, 3, 1] = 0
    told = values.masked_fill(~mask[..., None], torch.nan)
    told[2, 3, 1] = torch.nan
    assert torch.equal(model(told), model(values, mask))


@pytest.fixture(scope="module")
def vowels():
    return open_series(FOLDER / "vowels")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Nine speakers from some eight utterances each: chance is 11 %."""
    sizes = [f"model.{name}={value}" for name, value in SMALL.items() if name in OWN]
    wanted = ["task=series", "model=ea_dc", f"data={FOLDER / 'vowels'}", *sizes]
    return train_recipe(
        [*wanted, "steps.total=60", "steps.batch=16", "optimizer.lr=0.003"],
        out=tmp_path_factory.mktemp("series") / "run", device="cpu",
    )  # fmt: skip


def test_learns_who_speaks(run):
    found = Run(run).result
    assert found["test"]["n"] == 36 and found["test"]["accuracy"] > 0.5
    names = [one["name"] for one in found["baselines"]]
    assert names == ["always '1'", "nearest training series"]
    assert found["model"]["title"].endswith("26 steps")
    whole = (run / "report.html").read_text()
    page = visible(whole)
    assert "test series" in page
    assert not of_pictures(page) + of_pictures(prose((run / "README.md").read_text()))
    assert found["test"]["accuracy"] == 1 or "curves of" in whole


def test_curves_have_gaps_where_numbers_are_missing():
    """A feature is drawn over its own range; between numbers that are missing there is white."""
    numbers = np.array([[0.0], [1], [np.nan], [np.nan], [np.nan], [0], [1], [np.nan]])
    picture = np.asarray(Image.open(io.BytesIO(curves.drawn(numbers))))
    ink = (picture != 255).any((0, 2))
    assert ink[12] and ink[-13] and not ink[len(ink) // 3 : len(ink) // 2].any()


def test_the_file_alone_gives_the_reports_figures(run, vowels):
    """Whoever has the ONNX file and the test part's numbers finds what the report says."""
    test = np.array([item.part == "test" for item in vowels.items])
    given = padded(vowels.series.taken(np.flatnonzero(test)), 26)
    session = onnxruntime.InferenceSession(run / "model.onnx")
    shares, logits = session.run(["probabilities", "logits"], {"series": given})
    right = logits.argmax(1) == vowels.series.labels[test]
    assert right.mean() == pytest.approx(Run(run).accuracy)
    assert shares.sum(1) == pytest.approx(1)
    found = vitrail.predict(run, FOLDER / "vowels" / "JapaneseVowels_TEST.ts")
    assert [one.ranked[0][0] for one in found] == [vowels.classes[row.argmax()] for row in logits]
    assert found[0].path == "JapaneseVowels_TEST.ts:1"
    (run / "model.onnx").rename(run / "kept.onnx")
    try:
        [answer] = vitrail.predict(run, given[0])
    finally:
        (run / "kept.onnx").rename(run / "model.onnx")
    assert dict(answer.ranked)[answer.ranked[0][0]] == pytest.approx(shares[0].max(), abs=1e-4)


def test_what_is_asked_wrongly_gets_its_reason(run, tmp_path):
    few = vitrail.predict(run, [np.zeros((4, 3), np.float32), np.zeros((99, 12), np.float32)])
    assert [one.error for one in few] == [
        "has 3 features, and the run takes 12",
        "has 99 steps, and the run takes 26 at most",
    ]
    [one] = vitrail.predict(run, str(tmp_path / "none.ts"))
    assert one.error.startswith("cannot be read")
    for ask in (
        lambda: vitrail.explain(run, ["x.png"]),
        lambda: vitrail.export(run, engine="onnxruntime"),
        lambda: vitrail.evaluate(run, stress=Stress(corruptions=True)),
    ):
        with pytest.raises(ConfigError, match="takes series"):
            ask()


def test_the_runs_own_test_is_judged_again(run):
    found = vitrail.evaluate(run)
    assert found.n == 36 and found.figures["test"]["accuracy"] == Run(run).accuracy
    other = vitrail.evaluate(run, FOLDER / "vowels" / "JapaneseVowels_TEST.ts")
    assert other.figures["test"]["accuracy"] == Run(run).accuracy


def test_a_stopped_training_goes_on_with_the_same_bits(run, vowels, tmp_path):
    recipe = read(run / "recipe.json")
    split = divide(inspect(vowels, progress=False))
    straight = Workshop(split, device="cpu").train(recipe, tmp_path / "straight", 6)
    Workshop(split, device="cpu").train(recipe, tmp_path / "stopped", 3)
    resumed = Workshop(split, device="cpu").train(recipe, tmp_path / "stopped", 6)
    ours, theirs = (one.model.state_dict() for one in (straight, resumed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_a_fit_recognises_series(tmp_path):
    found = vitrail.fit(FOLDER / "vowels", time="60s", out=tmp_path / "run")
    assert found.result["test"]["n"] == 36
    assert {one["family"] for one in found.result["candidates"]} == {"evolving_series"}


# ---- tables in long form ---------------------------------------------------------------


def table(folder, rows, head="case,time,x,y,class,split"):
    path = folder / "walks.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_a_table_in_long_form(tmp_path):
    """Rows are sorted by time; an empty cell is missing; padding is behind the last step."""
    rows = ["a,2,3,30,up,train", "a,1,1,,up,train", "b,0,5,50,down,test"]
    rows += ["b,1,6,60,down,test", "b,2,7,70,down,test"]
    path = table(tmp_path, rows)
    found = open_series(path)
    assert found.classes == ("down", "up") and [i.key for i in found.items] == ["a", "b"]
    assert [(i.label, i.part) for i in found.items] == [(1, "train"), (0, "test")]
    nan = np.nan
    np.testing.assert_array_equal(
        padded(found.series, 3),
        np.array([[[1, nan], [3, 30], [nan, nan]], [[5, 50], [6, 60], [7, 70]]], np.float32),
    )
    assert task_of_data(path) == "series" and task_of_data(FOLDER / "vowels") == "series"


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        ([], "case,time,x,class", "has no rows"),
        (["a,0,1,up", "a,0,2,up"], "case,time,x,class", "row 3: the time '0' of this series"),
        (["a,0,1,up", "a,1,2,down"], "case,time,x,class", "row 3: series 'a' is 'down' here"),
        (["a,0,1,up", "a,1,z,up", "a,2,3,up"], "case,time,x,class", "row 3: 'z' in column 'x'"),
        ([",0,1,up"], "case,time,x,class", "row 2: the case is empty"),
        (["a,0,1,"], "case,time,x,class", "row 2: the class is empty"),
        (["0,1,up"], "time,x,class", "expected a table in long form"),
        (["a,0,1,up"], "case,time,x,class", "needs at least two classes"),
    ],
)
def test_malformed_tables(tmp_path, rows, head, message):
    with pytest.raises(DataError, match=message) as caught:
        open_series(table(tmp_path, rows, head))
    assert "\n" not in str(caught.value)


def test_tables_of_images_are_none_of_series(tmp_path):
    images = table(tmp_path, [f"{i}.png,{i % 2}" for i in range(9)], "path,label")
    assert task_of_data(images) is None
    video = tmp_path / "video.ts"
    video.write_bytes(b"G@\x00\x10" + bytes(180))
    assert task_of_data(video) is None


# ---- the gate --------------------------------------------------------------------------


def test_series_of_which_none_can_be_used(tmp_path):
    rows = [f"{case},{step},,up" for case in (0, 1) for step in range(3)]
    path = table(tmp_path, rows, "case,t,x,class")
    with pytest.raises(DataError, match="expected a table in long form"):
        open_series(path)
    text = HEADER + "?,?:?,?:up\n?,?:?,?:down\n"
    with pytest.raises(DataError, match="none of the 2 series of"):
        inspect(open_series(write(tmp_path, text)), progress=False)


def test_the_gate_tells_what_is_wrong_with_series(tmp_path):
    """An answer key: each fault is planted once, and nothing else is told as one."""
    random = np.random.default_rng(0)
    rows = []
    for case in range(40):
        label = ("up", "down")[case % 2]
        for step in range(6):
            x, y = random.normal(size=2).round(3)
            rows.append([f"c{case:02}", step, x, y, 1.0, label])
    for row in rows:
        if row[0] == "c05":
            row[2:5] = "", "", ""
        if row[0] == "c07":  # the numbers of c06, which is of the other class
            twin = rows[6 * 6 + row[1]]
            row[2:5] = twin[2:5]
        if row[0] == "c08" and row[1] == 2:
            row[2] = 4000
        if row[0] == "c09" and row[1] == 3:
            row[3] = ""
    rows = [row for row in rows if row[0] != "c11" or row[1] == 0]
    rows = [row for row in rows if row[0] != "c12" or row[1] < 4]
    path = table(tmp_path, [",".join(map(str, r)) for r in rows], "case,time,x,y,z,class")
    found = inspect(open_series(path), progress=False)
    assert {one.key: one.kind for one in found.broken} == {"c05": "no numbers", "c11": "too short"}
    told = {one.kind: one.keys for one in found.findings if one.kind != "small class"}
    assert told == {
        "no numbers": ("c05",),
        "too short": ("c11",),
        "missing": ("c09",),
        "far off": ("c08",),
        "exact duplicates": ("c06 = c07",),
        "lengths": (),
        "constant feature": ("z",),
        "features": (),
    }


def test_who_wants_images_refuses_series(tmp_path, capsys):
    """And says in a sentence what the weights are, whoever is asked."""
    small = Config(features=2, length=16, dim=16, hidden=16, depth=1, heads=2, ffn=16)
    model, file = vitrail.create(small), tmp_path / "series.safetensors"
    save(file, model.state_dict(), metadata={"config": config_json(small)})
    assert (input_kind(small), input_shape(small)) == ("series", (16, 2))
    assert command("load", str(file)) == 0
    assert "2 classes, 16x2 series" in capsys.readouterr().out
    said = refused(capsys, "load", str(file), "--out", str(tmp_path / "run"))
    assert "is evolving_series-" in said and "which takes series: give weights" in said
    image = vitrail.catalog()["resnet_18"].config
    with pytest.raises(CheckpointError, match="takes 16x2 series, and the model 224x224 images"):
        start(image, str(file))
    with pytest.raises(CheckpointError, match=r"evolving_series-.*, a model of series: images"):
        shelf(file, image_size=(32, 32), classes=5)
    recipe = Recipe(config_json(small), Data("x"), Steps(1, 1))
    with pytest.raises(ConfigError, match="model takes 16x2 series, a recipe trains on images"):
        _ = recipe.config
    with pytest.raises(RunError, match="takes series: a run folder is of"):
        adopt(tmp_path / "run", model, source=str(file))
    assert not (tmp_path / "run").exists()
