"""Ways to adapt a base: who takes part, what comes out, and going on after a stop."""

from __future__ import annotations

import json
import shlex
from io import StringIO
from types import SimpleNamespace

import pytest
import typer
from rich.console import Console
from support.pictures import write_classes
from test_base import base_in

from vitrail.cli import app, main
from vitrail.commands.adapt import _most
from vitrail.errors import BudgetError, CheckpointError, ConfigError
from vitrail.jobs.adapt import Wanted, adapt, resume
from vitrail.models.trunk.catalog import networks, purpose
from vitrail.recipes.ways import WAYS
from vitrail.report.adapt import HEAD, WayFacts, cells, chapter, ranked
from vitrail.run.watch import Watched
from vitrail.training.interrupt import Interrupted
from vitrail.units import parse_duration


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("data") / "photos", {"cat": 16, "dog": 16})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_in(tmp_path_factory.mktemp("bases") / "base")


def quiet():
    return Console(file=StringIO(), width=200)


def wanted(base, photos, **more):
    return Wanted(str(base), str(photos), **{"epochs": 1, "device": "cpu"} | more)


@pytest.fixture(scope="module")
def asked(base, photos):
    """A race of a way without the backbone, one with it, and one that trains too much."""
    return wanted(base, photos, only=("linear", "vpt-deep", "full"), params=900)


@pytest.fixture(scope="module")
def raced(asked, tmp_path_factory):
    return adapt(asked, out=tmp_path_factory.mktemp("raced") / "run", console=quiet())


def test_the_best_way_becomes_a_run_and_all_have_a_row(asked, raced, base, photos):
    run = raced
    rows = {one["name"]: one for one in json.loads((run / "adapt.json").read_text())}
    assert rows.keys() == set(asked.only)
    assert rows["linear"]["trained"] == 16 * 2 + 2
    assert rows["vpt-deep"]["trained"] == rows["linear"]["trained"] + 2 * 10 * 16
    assert rows["full"]["why"] == "over budget" and rows["full"]["accuracy"] is None
    assert [one["won"] for one in rows.values()].count(True) == 1
    winner = next(one for one in rows.values() if one["won"])
    assert winner["validation"] == max(r["validation"] for r in rows.values() if not r["why"])
    assert winner["accuracy"] == run.result["test"]["accuracy"]
    assert winner["low"] == run.result["test"]["low"]
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["base"] == str(base) and recipe["methods"]
    assert "Ways to adapt" in (run / "report.html").read_text()
    assert not (run / "checkpoints").exists()
    assert run.predict(next(photos.glob("cat/*")))[0].answer


def test_a_stopped_race_goes_on_and_ends_with_the_same_figures(asked, raced, tmp_path, monkeypatch):
    to_end, trained = Watched.to_end, []

    def stopping(self, recipe, begin=0):
        trained.append(self.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return to_end(self, recipe, begin)

    monkeypatch.setattr(Watched, "to_end", stopping)
    with pytest.raises(Interrupted, match="go on with `vitrail adapt --resume --out"):
        adapt(asked, out=tmp_path / "parts", console=quiet())
    again = resume(tmp_path / "parts", console=quiet())
    rows = [json.loads((run / "adapt.json").read_text()) for run in (raced, again)]
    told = ("name", "validation", "accuracy", "steps", "won")
    first, second = ([tuple(row[name] for name in told) for row in some] for some in rows)
    assert first == second


def test_a_time_limit_leaves_steps_out(base, photos, tmp_path):
    asked = wanted(base, photos, only=("linear",), epochs=100_000, time_s=4.0)
    run = adapt(asked, out=tmp_path / "run", console=quiet())
    [row] = json.loads((run / "adapt.json").read_text())
    assert 4 < row["steps"] < 100_000


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ({"only": ("vtp",)}, ConfigError, "way 'vtp' is unknown: known are linear, partial-1"),
        ({"epochs": 0}, ConfigError, "epochs is 0"),
        ({"params": 0.0}, ConfigError, "params is 0"),
        ({"params": 3.0}, BudgetError, "trains as few parameters: linear trains 34; allow more"),
        ({"base": "nowhere"}, CheckpointError, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_is_one_sentence(base, photos, tmp_path, words, error, said):
    with pytest.raises(error, match=said) as caught:
        adapt(
            Wanted(**{"base": str(base), "data": str(photos)} | words), out=tmp_path / "run",
            console=quiet(),
        )  # fmt: skip
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("family", "kind"),
    [("semantic_fpn", "masks"), ("upernet", "masks"), ("retinanet", "boxes"),
     ("mask_rcnn", "boxes"), ("lit", "pairs"),
     ("evolving_series", "series"), ("resnet", "images"), ("vit", "images")],
)  # fmt: skip
def test_what_a_network_is_of(family, kind):
    kinds = networks()[family].Config
    assert purpose(kinds.__new__(kinds)) == kind


def test_a_network_of_masks_is_no_base(photos, tmp_path, monkeypatch):
    from vitrail.jobs import adapt as job
    from vitrail.models import semantic_fpn

    known = SimpleNamespace(name="fpn", config=semantic_fpn.Config.__new__(semantic_fpn.Config))
    monkeypatch.setattr(job, "identify", lambda _: known)
    with pytest.raises(CheckpointError, match="base is fpn, a model of masks: give one of images"):
        adapt(Wanted("base", str(photos)), out=tmp_path / "run", console=quiet())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base"], "base or data is not given"),
        (["base", "photos", "--params", "200%"], "give a number such as 50k, or a share like 2%"),
        (["--resume"], "add --out RUN"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, said, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["adapt", *arguments])
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_the_command_that_is_told_can_be_typed():
    asked = Wanted("a base", "photos", 0.02, 90.0, 5, ("lora", "bias"), 3, group_by="(p.)")
    group = typer.main.get_command(app)
    name, *words = shlex.split(asked.command)[1:]
    context = group.commands[name].make_context(name, words)  # pyright: ignore
    told = context.params
    assert (told["base"], told["data"], told["seed"], told["epochs"]) == ("a base", "photos", 3, 5)
    assert _most(told["params"]) == 0.02 and parse_duration(told["time"]) == 90
    assert told["only"] == "lora,bias" and told["group_by"] == "(p.)"
    assert _most("50k") == 50_000 and _most(None) is None


def test_rows_fill_the_table_the_best_first():
    good = WayFacts("lora", 1200, 0.012, 50, 3.0, 0.8, 0.75, 0.7, 0.8)
    left = WayFacts("full", 10**6, why="over budget")
    better = WayFacts("bias", 300, 0.003, 50, 3.0, 0.9, 0.70, 0.6, 0.8, won=True)
    assert [one.name for one in ranked([left, good, better])] == ["bias", "lora", "full"]
    assert all(len(cells(one)) == len(HEAD) for one in (good, left, better))
    assert cells(good)[2:6] == ("1.20 %", "80.0 %", "75.0 %", "70.0 % to 80.0 %")
    table = chapter([left, good, better], "base", 100).parts[0]
    assert [row[0] for row in table.rows] == ["bias", "lora", "full"]
    assert len(WAYS) == 11
