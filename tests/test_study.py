"""Studies: statistics by hand, a whole small study, stopped and resumed, and wrong questions."""

from __future__ import annotations

import json
import statistics
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from vitrail import cli
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.models import families
from vitrail.study import Asked, plans, resume, study
from vitrail.study.effect import effects, student
from vitrail.training.interrupt import Interrupted


@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 22, 2.0739), (0.995, 5, 4.0321)],
)
def test_quantiles_are_those_of_the_tables(probability, freedom, expected):
    assert student(probability, freedom) == pytest.approx(expected, abs=1e-4)


def test_two_arms_are_a_paired_t_test():
    ours, base = [0.82, 0.83, 0.86], [0.80, 0.82, 0.81]
    (found,) = effects({"none": base, "a": ours}, "none").values()
    gaps = [a - b for a, b in zip(ours, base, strict=True)]
    reach = 4.30265 * statistics.stdev(gaps) / 3**0.5
    assert found.mean == pytest.approx(statistics.mean(gaps))
    assert (found.low, found.high) == pytest.approx((found.mean - reach, found.mean + reach), 1e-4)


def test_what_seeds_share_is_no_noise():
    """A seed that is bad for all arms widens no interval; many comparisons ask for more."""
    values = {"none": [0.8, 0.5], "a": [0.82, 0.52], "b": [0.81, 0.5101]}
    found = effects(values, "none")
    assert found["a"].low > 0.019 and found["a"].clear and found["b"].clear
    assert effects({"none": [0.8], "a": [0.9]}, "none")["a"].low is None
    with pytest.raises(ValueError, match="different numbers of seeds"):
        effects({"none": [0.8], "a": [0.9, 0.8]}, "none")


def test_intervals_of_many_arms_hold_together():
    """The interval that is drawn is the one that decides: wide enough for all comparisons."""
    rng = np.random.default_rng(0)
    values = {name: list(rng.normal(0.8, 0.01, 3)) for name in ("none", "a", "b", "c", "d")}
    found, table = effects(values, "none"), np.array(list(values.values()))
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    error = (2 * (rest**2).sum() / 8 / 3) ** 0.5
    reach = error * 3.2060  # Student's t of 8 degrees of freedom at 1 - 0.025 / 4
    for one in found.values():
        assert one.high - one.mean == pytest.approx(reach, rel=1e-4)
        assert one.clear == (abs(one.mean) > reach)


def test_every_plan_builds_its_arms():
    """Small images and photographs, grey and in colour."""
    for plan in plans.PLANS.values():
        assert plan.baseline in plan.arms
        for name, arm in plan.arms.items():
            for image in ((28, 28), (128, 128)):
                config = plan.config(name, image, 1, 10)
                assert families()[arm.family].MODEL(config).config.image == image


@pytest.fixture
def small(monkeypatch):
    """A study of two plain networks that take a second each."""
    arms = {
        "one": plans.Arm("resnet", "one block", {"depths": (1,)}),
        "two": plans.Arm(
            "resnet", "two blocks", {"depths": (2,)}, settings=("optimizer.lr=0.002",)
        ),
    }
    host = {"dims": (4,), "expansion": 1, "stem_kernel": 3, "stem_stride": 4}
    plan = plans.Plan("Depth", "Does depth help?", "one", arms, lambda image: host)
    monkeypatch.setitem(plans.PLANS, "depth", plan)


def test_a_study_stopped_and_resumed(small, tmp_path, monkeypatch, capsys):
    quiet, out = Console(file=StringIO()), tmp_path / "study"
    whole = tmp_path / "whole"
    asked = Asked("depth", seeds=2, epochs=1)
    expected = study(asked, whole, quiet)
    from vitrail.study import run

    trained, rates, train = [], {}, run._Study._train

    def stop_at_third(self, name, recipe, images, trial):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((name, recipe.seed))
        rates[name] = recipe.optimizer.lr
        train(self, name, recipe, images, trial)

    monkeypatch.setattr(run._Study, "_train", stop_at_third)
    with pytest.raises(Interrupted, match="vitrail study depth --resume --out"):
        study(asked, out, quiet)
    assert trained == [("one", 0), ("two", 0), ("one", 1)]
    assert rates["two"] == 0.002 != rates["one"]
    monkeypatch.setattr(run._Study, "_train", train)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["study", "depth", "--resume", "--out", str(out), "--json"])
    assert not stopped.value.code
    told = json.loads(capsys.readouterr().out)
    for arm, same in zip(told["arms"], expected.arms, strict=True):
        assert arm["accuracies"] == list(same.accuracies)
    assert told == json.loads((out / "study.json").read_text())
    page = (out / "study.html").read_text()
    assert (
        "Does depth help?" in page
        and "<svg" in page
        and "http" not in page.replace("http://www.w3.org", "")
    )
    assert not any((out / "checkpoints").iterdir())


def test_wrong_questions(small, tmp_path):
    for changes, said in (
        ({"name": "dept"}, "study 'dept' is unknown: .*depth"),
        ({"only": ("three",)}, "arm 'three' of depth is unknown"),
        ({"seeds": 0}, "seeds is 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            Asked(**{"name": "depth"} | changes)
    with pytest.raises(DataError, match="does not exist"):
        study(Asked("depth", str(tmp_path / "none")), tmp_path / "s")
    assert not (tmp_path / "s").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("")
    with pytest.raises(RunError, match="is not empty"):
        study(Asked("depth"), tmp_path / "other")
    with pytest.raises(RunError, match=r"asked\.json is missing: start a new study"):
        resume(tmp_path / "other")
