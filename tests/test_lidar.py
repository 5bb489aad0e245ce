"""A class for every point: from a folder of scans to labels of new scans."""

from __future__ import annotations

import io
import json
import math
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from test_rangevit import SMALL

import vitrail
from vitrail.cli import main
from vitrail.config import to_json
from vitrail.data.lidar import cast
from vitrail.data.lidar.batches import Crop, Moves, ScanBatches
from vitrail.data.lidar.folder import open_scans
from vitrail.data.lidar.gate import inspect_scans
from vitrail.data.lidar.scans import Scans, statistics
from vitrail.data.lidar.split import divide_scans
from vitrail.data.masks import IGNORE
from vitrail.errors import ConfigError, DataError, ExportError, RunError
from vitrail.jobs.predict import answering
from vitrail.jobs.train import train_recipe
from vitrail.models import config_json, rangevit
from vitrail.objectives import FocalLovasz
from vitrail.objectives.context import Context
from vitrail.objectives.focal_lovasz import focal, lovasz_softmax, rarity
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.report.lidar import ShownScan, faults, from_above
from vitrail.runs import Run
from vitrail.training.interrupt import Interrupted
from vitrail.training.objective import Step
from vitrail.training.steps import Steps

MODEL = json.dumps(to_json(config_json(SMALL)))


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street") / "street"
    cast.write_street(folder, cast.Sensor(8, 64), drives=2, scans=10)
    return folder


@pytest.fixture(scope="module")
def scans(street):
    found = inspect_scans(open_scans(street), progress=False)
    return Scans(divide_scans(found).train, found.projection, (8, 32))


def settings(street, *more):
    return ["task=lidar", f"model={MODEL}", f"data={street}", "steps.total=4", "steps.batch=4",
            "model.image=8,32", *more]  # fmt: skip


@pytest.fixture(scope="module")
def run(street, tmp_path_factory):
    return train_recipe(settings(street), out=tmp_path_factory.mktemp("run") / "run")


# ---- losses --------------------------------------------------------------------------------


def test_focal_loss_of_known_probabilities():
    shares = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    targets, weights = torch.tensor([0, 1]), torch.tensor([1.0, 2.0])
    expected = (0.1**2 * -math.log(0.9) + 2 * 0.25 * math.log(2)) / 2
    assert float(focal(shares, targets, weights, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(focal(shares, targets, weights, 0.0)) == pytest.approx(
        (-math.log(0.9) + 2 * math.log(2)) / 2, rel=1e-5
    )


def test_lovasz_of_sure_answers_is_the_jaccard_loss():
    torch.manual_seed(0)
    targets, said = torch.randint(0, 3, (50,)), torch.randint(0, 3, (50,))
    losses = []
    for label in range(3):
        both = ((targets == label) & (said == label)).sum()
        either = ((targets == label) | (said == label)).sum()
        losses.append(1 - both / either)
    found = lovasz_softmax(torch.eye(3)[said], targets)
    assert float(found) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_lovasz_between_two_sure_answers_is_linear():
    """One true point and one false: errors 0.6 and 0.2 of class 1 weigh 1/2 and 1/2."""
    shares = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
    targets = torch.tensor([1, 0])
    of_1 = 0.6 * 0.5 + 0.2 * 0.5  # the false point first: 1 - 1/2, then 1
    of_0 = 0.6 * 1.0 + 0.2 * 0.0
    assert float(lovasz_softmax(shares, targets)) == pytest.approx((of_1 + of_0) / 2)


def test_rare_classes_weigh_more_by_the_published_rule():
    shares = torch.tensor([0.9, 0.1])
    expected = torch.log(1 + 1 / (shares + 1e-3))
    assert torch.allclose(rarity(shares), expected / expected.max())


def test_points_that_count_for_nothing_change_no_loss():
    loss = FocalLovasz().build(torch.nn.Identity(), Context(("a", "b"), (9, 1), 2))
    scores = torch.randn(6, 2)

    class Seen:
        images, points = scores, None
        targets = torch.tensor([0, 1, 0, 1, IGNORE, IGNORE])

    class Fewer:
        images, points, targets = scores[:4], None, torch.tensor([0, 1, 0, 1])

    answer = lambda images, points: images  # noqa: E731
    step = Step(0, 1, 0.0)
    assert torch.allclose(loss(answer, Seen(), step)["loss"], loss(answer, Fewer(), step)["loss"])


# ---- batches -------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_its_number(scans):
    mean, std = statistics(scans)
    crop = Crop(7, mean, std, Moves())
    one, two = (ScanBatches(scans, crop, batch=3, seed=5) for _ in range(2))
    two.get(0, 0)
    a, b = one.get(1, 1), two.get(1, 1)
    assert torch.equal(a.images, b.images) and torch.equal(a.points.neighbours, b.points.neighbours)
    assert a.images.shape == (3, 5, 8, 32) and len(a.targets) == sum(a.points.counts)
    shares = [one.get(1, 1, rank=rank, world=3) for rank in range(3)]
    assert torch.equal(torch.cat([s.images for s in shares]), a.images)
    begins = torch.tensor([0, *a.points.counts]).cumsum(0)
    near = a.points.neighbours
    for first, last in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        assert near[first:last].min() >= first and near[first:last].max() < last
    assert torch.equal(near[:, 0], torch.arange(len(near)))


def test_places_fall_on_the_pixel_that_shows_the_point(scans):
    mean, std = statistics(scans)
    batch = ScanBatches(scans, Crop(1, (0.0,) * 5, (1.0,) * 5), batch=1).get(0, 0)
    read = torch.nn.functional.grid_sample(
        batch.images, batch.points.places[None, None], mode="nearest", align_corners=False
    )[0, :, 0]
    near = (read[1:4].T - batch.points.xyz).norm(dim=1) < 1e-4
    assert near.float().mean() > 0.9  # the rest is hidden by nearer points
    assert len(mean) == len(std) == 5


def test_moves_keep_distances_to_each_other():
    scan = cast.drive(cast.Sensor(4, 16), 0, 1)[0]
    moved = Moves(1, 1, 1).moved(scan, np.random.default_rng(0))
    before, after = (np.linalg.norm(x.xyz[:-1] - x.xyz[1:], axis=1) for x in (scan, moved))
    assert np.allclose(before, after, atol=1e-3)
    same = Moves(0, 0, 0).moved(scan, np.random.default_rng(0))
    assert np.array_equal(same.xyz, scan.xyz)


# ---- the whole way -------------------------------------------------------------------------


def test_a_run_says_how_good_it_is(run):
    result = Run(run).result
    assert result["test"]["name"] == "mean intersection over union"
    assert 0 < result["test"]["mean_intersection_over_union"] < 1
    names = [one["name"] for one in result["baselines"]]
    assert names == ["always 'ground'", "most frequent class at each height and range"]
    assert result["export"]["max_score_difference"] < 1e-4
    page = (run / "report.html").read_text()
    for said in ("Class by class", "person", "What is taken for what", "Beside trivial answers"):
        assert said in page


def test_the_file_holds_the_network_between_projection_and_points(run):
    session = onnxruntime.InferenceSession(run / "model.onnx")
    [given] = session.get_inputs()
    assert given.shape[1:] == [5, 8, 32] and given.type == "tensor(float)"
    (maps,) = session.run(["maps"], {"images": np.zeros((2, 5, 8, 32), np.float32)})
    assert maps.shape == (2, 16, 8, 32)


def test_predict_writes_the_class_of_every_point(run, street, tmp_path):
    keys = [str(street / "scans" / "drive-00" / f"{n:06}.bin") for n in (0, 1)]
    broken = tmp_path / "cut.bin"
    broken.write_bytes(b"123")
    found = vitrail.predict(run, [*keys, broken], out=tmp_path / "out")
    assert "no whole points" in found[2].error
    labels = np.frombuffer((tmp_path / "out" / "000000.label").read_bytes(), "<u4")
    assert np.array_equal(labels, found[0].points)
    assert len(labels) == (street / "scans/drive-00/000000.bin").stat().st_size // 16
    assert sum(share for _, share in found[0].ranked) == pytest.approx(1)
    assert (tmp_path / "out" / "classes.txt").read_text().split() == list(cast.CLASSES)


def test_weights_answer_as_the_file_does(run, street, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model.onnx").unlink()
    key = str(street / "scans" / "drive-01" / "000003.bin")
    [one], [two] = (vitrail.predict(folder, key) for folder in (run, tmp_path / "run"))
    assert (one.points == two.points).mean() > 0.999


def test_points_that_are_not_finite_have_a_label_too(run, street, tmp_path):
    rows = np.frombuffer((street / "scans/drive-00/000002.bin").read_bytes(), "<f4").reshape(-1, 4)
    rows = rows.copy()
    rows[7, 2] = np.nan
    (tmp_path / "a.bin").write_bytes(rows.tobytes())
    [found] = vitrail.predict(run, tmp_path / "a.bin")
    assert len(found.points) == len(rows) and found.points[7] == IGNORE


def test_the_command_line_answers(run, street, tmp_path, capsys):
    scan = str(street / "scans" / "drive-00" / "000000.bin")
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(run), scan, "--json", "--out", out])
    assert stopped.value.code == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["labels"].endswith("000000.label") and row["shares"]


def test_other_commands_say_what_it_is(run):
    with pytest.raises(RunError, match="answers for points of lidar scans"):
        vitrail.export(run)
    with pytest.raises(ConfigError, match="in one way"):
        answering(run, threshold=0.5)


def test_a_run_is_judged_again_by_its_own_scans_and_by_others(run, street, tmp_path):
    own = vitrail.evaluate(run)
    first, again = Run(run).result["test"], own.figures["test"]
    assert again["accuracy"] == pytest.approx(first["mean_intersection_over_union"], abs=1e-6)
    assert own.n == first["n"] and "person" in own.report.read_text()
    every = vitrail.evaluate(run, street, name="all")
    assert every.n == 20 and every.folder == run / "evaluations" / "all"
    shutil.copytree(street, tmp_path / "other")
    names = (street / "classes.txt").read_text().replace("person", "walker")
    (tmp_path / "other" / "classes.txt").write_text(names)
    with pytest.raises(DataError, match=r"other has the classes .*walker.*: give scans of these"):
        vitrail.evaluate(run, tmp_path / "other")
    with pytest.raises(ConfigError, match="leave out engines, attacks and corruptions"):
        vitrail.evaluate(run, engine="openvino")


@pytest.mark.slow  # races, trains and reports
def test_networks_of_scans_race(street, tmp_path):
    found = vitrail.fit(street, task="lidar", time="20s", out=tmp_path / "run", threads=1)
    assert found.result["model"]["config"]["family"] == "rangevit"
    assert (found / "model.onnx").is_file() and found.score > 0
    assert (found / "report.html").is_file() and vitrail.evaluate(found).n > 0
    again = vitrail.fit(street, resume=True, out=tmp_path / "run")
    assert again.result == found.result


def test_a_damaged_recipe_is_told(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["task"]["projection"] = {"kind": "mercator"}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(RunError, match=r"recipe\.json is damaged"):
        answering(tmp_path / "run")


def test_a_stopped_training_goes_on_with_the_same_bits(run, street, tmp_path, monkeypatch):
    from vitrail.training.machine import Machine

    again, count = Machine.step, iter(range(2))

    def stopped(self, feeds, step):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return again(self, feeds, step)

    monkeypatch.setattr(Machine, "step", stopped)
    with pytest.raises(Interrupted):
        train_recipe(settings(street, "steps.save_s=0"), out=tmp_path / "run")
    monkeypatch.undo()
    train_recipe([], out=tmp_path / "run", resume=True)
    ours, theirs = (Run(r).result["test"] for r in (run, tmp_path / "run"))
    assert ours == theirs


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["model=resnet_18"], "model takes"),
        (["objective=cross_entropy"], "objective cross_entropy is not for task lidar"),
        (["task.window=4"], "expected an odd number"),
        (["model.image=4,32"], "crops have the full height"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(street, tmp_path, more, said):
    with pytest.raises(ConfigError, match=said):
        train_recipe([*settings(street), *more], out=tmp_path / "run")


def test_images_are_not_trained_on_by_a_network_of_scans(tmp_path):
    with pytest.raises(ConfigError, match="a recipe trains on images"):
        train_recipe([f"model={MODEL}", "data=fashion-sample"], out=tmp_path / "run")
    with pytest.raises(ConfigError, match="latency is not for lidar scans"):
        vitrail.fit("scans", task="lidar", latency="20ms")


def test_an_export_that_computes_something_else_is_refused(street, tmp_path, monkeypatch):
    from vitrail.engines import scans as engine

    real = engine.in_numpy

    def wrong(running, state, neighbours):
        network = real(running, state, neighbours)
        return type(network)(lambda x: network.maps(x) + 1, network.refine, neighbours)

    monkeypatch.setattr(engine, "in_numpy", wrong)
    with pytest.raises(ExportError, match="does not compute what the model does"):
        train_recipe(settings(street, "steps.total=1"), out=tmp_path / "run")
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_a_recipe_of_scans_takes_the_losses_of_scans():
    recipe = amend(Recipe({}, Data(""), Steps(1, 1)), ["task=lidar"])
    assert isinstance(recipe.objective, FocalLovasz)
    assert isinstance(rangevit.Config().points, rangevit.PointHead)


def test_pictures_show_points_where_they_are():
    xyz = np.array([[20.0, 0, 0], [0, 20.0, 0]], np.float32)
    labels = np.array([0, 1], np.uint8)
    drawn = np.asarray(Image.open(io.BytesIO(from_above(xyz, labels, ("a", "b")))))
    assert drawn[120, 240].any() and drawn[240, 120].any()  # ahead is upwards, left is left
    assert not np.array_equal(drawn[120, 240], drawn[240, 120])
    one = ShownScan("k", xyz, np.array([[0, 1, -1]]), labels, labels[::-1], 0.0)
    shown = np.asarray(Image.open(io.BytesIO(faults(one))))
    assert shown[0, 0, 0] > shown[0, 0, 1] and not shown[0, 2].any()


@pytest.mark.slow
def test_a_network_beats_height_and_range(tmp_path):
    cast.write_street(tmp_path / "street", cast.Sensor(16, 128), drives=6, scans=20)
    run = train_recipe(
        ["task=lidar", f"model={MODEL}", f"data={tmp_path / 'street'}", "steps.total=300",
         "steps.batch=8", "optimizer.lr=0.003", "task.moves.shift=0", "task.moves.turn=0"],
        out=tmp_path / "run",
    )  # fmt: skip
    result = Run(run).result
    best = max(one["mean_intersection_over_union"] for one in result["baselines"])
    assert result["test"]["mean_intersection_over_union"] > best
