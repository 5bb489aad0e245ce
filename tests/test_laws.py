"""Laws of scale recover the forms that points are drawn from."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.pictures import photo, write_classes
from test_cli import refused
from test_unwritable import never

from vitrail.data.tree import is_run
from vitrail.errors import ConfigError, RunError
from vitrail.run.folder import RunFolder
from vitrail.study import scaling
from vitrail.study.laws import Saturating, Shape, fit_saturating, fit_shape, frontier, scaled
from vitrail.study.scaling import Point, laws, predicted, star, summary


def noisy(values, share, seed=0):
    return values * np.exp(np.random.default_rng(seed).normal(0, share, np.shape(values)))


def test_a_frontier_has_no_point_behind_it():
    compute, errors = [4, 1, 2, 3, 2], [0.2, 0.5, 0.4, 0.45, 0.6]
    assert frontier(compute, errors).tolist() == [1, 2, 0]


def test_the_saturating_law_is_found_again():
    truth = Saturating(0.9, 0.35, 0.12, 3.0)
    compute = np.geomspace(0.5, 1e5, 30)
    law = fit_saturating(compute, noisy(truth.error(compute), 0.01), draws=20)
    for name in ("b", "c"):
        low, high = law.intervals[name]
        assert low - 0.01 <= getattr(truth, name) <= high + 0.01 and high - low < 0.3
    # What a law is for: the error at ten times as much compute.
    assert law.error(1e6) == pytest.approx(truth.error(1e6), rel=0.03)
    exact = fit_saturating(compute, truth.error(compute), draws=0)
    assert [exact.a, exact.b, exact.c, exact.d] == pytest.approx([0.9, 0.35, 0.12, 3.0], rel=1e-3)


def test_the_form_of_a_shape_is_found_again():
    truth = Shape(2.0, 0.6, 0.02, 0.5, 1.5, 0.45, 0.05)
    sizes, compute = np.meshgrid(np.geomspace(16, 512, 6), np.geomspace(10, 1e5, 6))
    x, t = sizes.ravel(), compute.ravel()
    law = fit_shape(x, t, noisy(truth.error(x, t), 0.003), draws=20)
    low, high = law.intervals["growth"]
    assert low - 0.02 <= truth.growth <= high + 0.02 and high - low < 0.3
    for spent in (1e3, 1e4):
        assert law.best(spent) == pytest.approx(truth.best(spent), rel=0.2)
        around = truth.best(spent) * np.array([0.8, 1.0, 1.25])
        assert truth.error(around, spent).argmin() == 1


def test_a_shape_grows_by_powers():
    start = {"dim": 608, "depth": 10, "hidden": 928}
    growth = {"dim": 0.22, "depth": 0.45, "hidden": 0.6}
    assert scaled(start, growth, 1.0, {"dim": 16, "hidden": 16}) == start
    grown = scaled(start, growth, 12.0, {"dim": 16, "hidden": 16})
    assert grown == {"dim": 1056, "depth": 31, "hidden": 4128}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit_saturating([1, 2], [0.5, 0.4]), "a law of 2 points"),
        (lambda: fit_saturating([1, 2, 3, 4, 5], [0.5, 0.4, 0.3, 0.2, 0.0]), "must be above 0"),
        (lambda: fit_shape([1] * 9, range(1, 10), [0.5] * 9), "1 sizes at 9 amounts"),
    ],
)
def test_points_that_tell_nothing(call, said):
    with pytest.raises(ConfigError, match=said):
        call()


# ---- the sweep -------------------------------------------------------------------------


def test_a_star_varies_one_size_at_a_time():
    shapes = star([32, 64, 96, 128])
    assert len(shapes) == 10 and len({str(shape) for shape in shapes}) == 10
    centre = shapes[0]
    assert centre == {"dim": 128, "depth": 6, "hidden": 512}
    for shape in shapes[1:]:
        assert sum(shape[name] != centre[name] for name in centre) == 1


def test_points_of_a_star_give_its_laws(tmp_path):
    """Errors drawn from one form for each size are told by the sweep's own fits."""
    points = []
    for shape in star([32, 64, 96, 128]):
        for spent in (1e9, 3e9, 1e10, 3e10):
            size = np.prod([shape[n] / m for n, m in (("dim", 128), ("depth", 6), ("hidden", 512))])
            error = 0.05 + 0.1 * size**-0.4 + (0.1 * size**0.5 + 0.2) * (spent / 1e9) ** -0.5
            points.append(Point(shape, spent * size, float(error), 1000))
    found = laws(points, tmp_path, draws=4)
    assert found.law is not None and set(found.shapes) == {"dim", "depth", "hidden"}
    assert all(0 < shape.growth < 2 for shape in found.shapes.values())
    asked = predicted(found)
    assert asked is not None and asked["error"] < min(p.error for p in points)
    assert "grows with compute to the power" in summary(found)
    assert predicted(laws(points[:4], tmp_path, draws=4)) is None


def test_a_sweep_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    folder = write_classes(
        tmp_path / "photos", {"cat": 12, "dog": 12}, lambda seed: photo(seed, 16, 16)
    )
    monkeypatch.setattr(scaling, "DURATIONS", (0.5, 1.0))
    shapes = [{"dim": 16, "depth": 1, "hidden": 32}, {"dim": 32, "depth": 1, "hidden": 32}]
    monkeypatch.setattr(scaling, "star", lambda widths: shapes[:1])
    one = scaling.scale(folder, sizes=(16, 32, 48), time="1s", out=tmp_path / "sweep", device="cpu")
    assert len(one.points) == 2 and one.points[0].compute < one.points[1].compute
    assert one.law is None and "too few for a law" in (one.folder / "report.html").read_text()
    monkeypatch.setattr(scaling, "star", lambda widths: shapes)
    two = scaling.scale(folder, sizes=(16, 32, 48), time="1s", out=tmp_path / "sweep", device="cpu")
    assert two.points[:2] == one.points and len(two.points) == 4
    assert len(json.loads((two.folder / "result.json").read_text())["points"]) == 4
    asked = {"times": 4.0, "from": {}, "shape": shapes[0], "error": 0.25, "compute": 3e7}
    monkeypatch.setattr(scaling, "predicted", lambda found: asked)
    three, four = (
        scaling.scale(folder, sizes=(16, 32, 48), time="1s", out=tmp_path / "sweep", device="cpu")
        for _ in range(2)
    )
    assert three.proof is not None and three.proof.sizes == shapes[0]
    assert three.proof.compute == pytest.approx(3e7, rel=0.2)
    assert four.proof == three.proof and "asked for: width 16" in summary(three)
    assert not list((two.folder / "checkpoints").iterdir())


def test_points_of_another_sweep_are_not_mixed_in(tmp_path, monkeypatch):
    folder, swept, photos = tmp_path / "sweep it", [], tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "others").mkdir()
    monkeypatch.setattr(scaling, "read_data", lambda data, *_: SimpleNamespace(digest=data.spec))
    monkeypatch.setattr(scaling, "_swept", lambda sweep, wanted: (swept.append(wanted), None))
    monkeypatch.setattr(scaling, "_write", lambda *_: None)
    monkeypatch.setattr(scaling, "Sweep", lambda *_: None)

    def scale(data=photos, sizes=(16, 32, 48), seed=0):
        scaling.scale(data, sizes=sizes, time="90s", seed=seed, out=folder, device="cpu")

    scale()
    scale()
    assert len(swept) == 2 and is_run(folder)
    told = swept[0].again(folder, "cpu")
    assert told == (
        f"vitrail scale {photos} --sizes 16,32,48 --time 90s --device cpu --out '{folder}'"
    )
    monkeypatch.setattr(scaling, "read_data", never)
    for change in ({"data": tmp_path / "others"}, {"sizes": (16, 32, 64)}, {"seed": 1}):
        with pytest.raises(ConfigError, match=r"is not what .* was begun with"):
            scale(**change)
    monkeypatch.setattr(scaling, "read_data", lambda *_: SimpleNamespace(digest="changed"))
    with pytest.raises(RunError, match=r"images are not those that .* began with"):
        scale()
    with RunFolder.create(folder, resume=True), pytest.raises(RunError, match="is in use by"):
        scale()
    assert len(swept) == 2


def test_a_sweep_writes_over_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "read_data", never)
    (tmp_path / "result.json").write_text("precious")
    with pytest.raises(RunError, match="exists and is not empty"):
        scaling.scale("photos", sizes=(16, 32, 48), out=tmp_path)
    (tmp_path / "asked.json").write_text('{"data": 5}')
    with pytest.raises(RunError, match=r"asked\.json is damaged .* start again in another folder"):
        scaling.scale("photos", sizes=(16, 32, 48), out=tmp_path)
    assert (tmp_path / "result.json").read_text() == "precious"


@pytest.mark.parametrize("sizes", ["32,64", "32,32,64", "20,32,64", "8,16,32"])
def test_sizes_that_tell_no_law(capsys, sizes):
    assert "do not tell a law" in refused(capsys, "scale", "photos", "--sizes", sizes)
