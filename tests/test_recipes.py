"""Published recipes: every field is one of a Recipe, acts, and is scaled by the papers' rules."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.pictures import write_classes
from test_cli import refused, run

from vitrail.config import to_json
from vitrail.data.policies import ColorJitter
from vitrail.errors import ConfigError
from vitrail.jobs.train import train_recipe
from vitrail.jobs.wish import wished
from vitrail.models import create, resolve
from vitrail.objectives import BinaryCrossEntropy
from vitrail.recipes.paper import IMAGES, differences
from vitrail.recipes.published import RECIPES, published
from vitrail.recipes.published.deit import DEIT
from vitrail.recipes.published.google import augreg
from vitrail.recipes.recipe import Data, Recipe, amend, from_json
from vitrail.recipes.scaling import Hand, asked, of_model, scaled
from vitrail.training.lamb import Lamb
from vitrail.training.schedule import Cosine
from vitrail.training.steps import Steps

EVERY = list(RECIPES)
TEACHER = ["objective.teacher=RUN"]


def at_hand(name: str, *settings: str, **hand) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe for data as large as ImageNet, or as `hand` says."""
    one = RECIPES[name]
    told = {"images": IMAGES, "image": (224, 224), "classes": 1000, "batch": one.batch} | hand
    found = scaled(one, Hand(**told))
    teacher = TEACHER if "distillation" in str(found.settings) else []
    base = Recipe({}, Data("x"), Steps(1, 1))
    return amend(base, [*found.settings, *teacher, *settings]), found.told


@pytest.mark.parametrize("name", EVERY)
def test_every_field_is_one_of_a_recipe(name):
    recipe, _ = at_hand(name)
    told = json.loads(json.dumps(to_json(recipe)))
    assert from_json(told) == recipe
    for path, value in RECIPES[name].settings.items():
        here = told
        for part in path.split("."):
            here = here[int(part)] if isinstance(here, list) else here and here[part]
        if path == "methods":
            here = here[0]
        if isinstance(here, dict):
            here = here["kind"]
        # Scaled in part even where data and batch are the published ones.
        wanted = -math.log(1000) if path == "objective.bias" and value is not None else value
        wanted = list(value) if isinstance(value, tuple) else wanted
        assert here == (pytest.approx(wanted, rel=1e-3) if isinstance(wanted, float) else wanted)


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_says_where_it_is_from(name):
    one = RECIPES[name]
    assert one.name == name and "arXiv" in one.source and one.rule
    assert set(one.unsure) <= set(one.fields())


def test_deit_at_its_own_size_is_deit():
    recipe, told = at_hand("deit")
    assert recipe.optimizer.lr == 1e-3 and recipe.steps.batch == 1024
    assert recipe.steps.total == 300 * 1251
    assert recipe.schedule == Cosine(5 * 1251, floor=0.01, start=0.001, whole=True)
    assert recipe.steps.ema == pytest.approx(0.99996, abs=1e-5)
    assert recipe.augment.repeats == 3 and recipe.augment.scale == (0.08, 1.0)
    assert "learning rate 0.001 = 0.001 x 1024/1024, by the authors' 5e-4" in told[0]


def test_a_recipe_is_scaled_to_the_data():
    recipe, told = at_hand("deit", images=6400, batch=64, image=(28, 28), classes=10)
    assert recipe.optimizer.lr == 1e-3 * 64 / 1024
    assert recipe.steps.total == 300 * 100 and recipe.schedule.warmup == 500
    # The average spans the share of the training that it spans in the paper.
    share = (1 - 0.99996) * 300 * IMAGES / 1024
    assert (1 - recipe.steps.ema) * 30000 == pytest.approx(share, rel=0.01)
    assert recipe.augment.scale is None and recipe.augment.shift == 0.125
    assert told[1] == "300 epochs of 100 steps are 30,000 steps; warm-up in the first 500"


def test_a_cut_training_keeps_its_shape():
    recipe, told = at_hand("nat", images=6400, batch=64, total=310)
    assert (recipe.steps.total, recipe.schedule.warmup, recipe.schedule.rest) == (310, 20, 10)
    assert any("310 steps, where 310 epochs of 100 steps are 31,000" in t for t in told)
    whole, _ = at_hand("nat", images=6400, batch=64)
    for step in (0, 10, 100, 250, 305):
        factor = recipe.schedule.factor(step, 310)
        assert factor == pytest.approx(whole.schedule.factor(100 * step, 31000), abs=0.06)


def test_lamb_s_rate_goes_by_the_root_of_the_batch():
    recipe, told = at_hand("rsb_a2", images=6400, batch=128)
    assert isinstance(recipe.optimizer, Lamb)
    assert recipe.optimizer.lr == pytest.approx(5e-3 / 4)
    assert "x the root of 128/2048" in told[0]


def test_a_sigmoid_begins_at_the_share_of_a_class():
    recipe, told = at_hand("augreg_medium2", classes=20)
    assert recipe.objective.bias == pytest.approx(-math.log(20), abs=1e-4)
    assert any("begins at -2.9957" in sentence for sentence in told)
    assert published("mixer").settings["objective.bias"] == -6.9


def test_what_the_user_sets_is_not_told():
    _, told = at_hand("deit", images=6400, batch=64, given=frozenset({"optimizer"}))
    assert not any("learning rate" in sentence for sentence in told)


def test_several_labels_keep_their_own_loss():
    found = scaled(RECIPES["mixer"], Hand(6400, (28, 28), 10, 64, several=True))
    assert not any(setting.startswith("objective") for setting in found.settings)
    assert any("binary cross entropy of each label" in sentence for sentence in found.told)


def test_a_recipe_is_checked_before_data_are_read():
    asked_for = ["model=cct_2_3x2_32", "data=x", "recipe=mixer", "steps.batch=16"]
    wish = wished(asked_for)
    assert wish.recipe.model["drop_path"] == 0.1 and wish.given == {"model", "data", "steps.batch"}
    assert wish.command(Path("run")).startswith("vitrail train --recipe mixer --set model=cct")
    several = wished([*asked_for, "task=multilabel"]).recipe
    assert several.objective == BinaryCrossEntropy() and several.augment.mixing == "roll"
    with pytest.raises(ConfigError, match=r"augment\.mixpu: no such field"):
        wished([*asked_for, "augment.mixpu=0.2"])


def test_a_recipe_changes_what_a_model_has():
    small = of_model(RECIPES["rsb_a3"], resolve("resnet_18"), [])
    assert small.settings == ("model.drop_path=0.0", "model.image=160,160")
    own = of_model(RECIPES["rsb_a3"], resolve("resnet_18"), ["model.image=96,96"])
    assert own.settings == ("model.drop_path=0.0",)
    assert of_model(RECIPES["swin"], resolve("swin_tiny"), []).settings == ()
    chosen = of_model(DEIT, resolve("deit_tiny"), ["model.drop_path=0.3"])
    assert chosen.settings == ()


def test_augreg_s_grid():
    """Table of the paper: parameter of mixup and magnitude for each level."""
    strong, none = augreg("strong1"), augreg("none", regularised=True)
    assert strong.settings["augment.mixup"] == 0.5
    assert strong.settings["augment.policy.magnitude"] == 20
    assert none.drop_path == 0.1 and none.settings["methods.0.rate"] == 0.1
    assert none.settings["augment.policy"] is None
    assert len([name for name in RECIPES if name.startswith("augreg_")]) == 14


def test_the_radius_of_an_attack_warms_up_by_its_share():
    """Ten epochs of a hundred and ten, and none in the canonical recipe."""
    recipe, told = at_hand("robust_light", images=6400, batch=64, total=220)
    assert recipe.objective.warmup == 20 and recipe.objective.attack.radius == 4 / 255
    assert "the attack's radius grows in the first 20" in told
    assert recipe.augment.policy == ColorJitter(0.4) and recipe.optimizer.weight_decay == 0.5
    other, told = at_hand("robust_canonical", images=6400, batch=64, total=220)
    assert other.objective == replace(recipe.objective, warmup=0)
    assert not any("radius" in sentence for sentence in told)
    assert other.augment.mixup == 0.8 and other.optimizer.lr == recipe.optimizer.lr
    several = scaled(RECIPES["robust_light"], Hand(6400, (28, 28), 10, 64, several=True))
    assert not any("objective" in setting for setting in several.settings)


def test_differences_are_all_of_them():
    found = {path: (a, b) for path, a, b in differences(RECIPES["deit"], RECIPES["deit_distilled"])}
    assert found == {
        "steps.ema": (0.99996, None),
        "objective": ("cross_entropy", "distillation"),
        "objective.outputs": ("-", "hard"),
        "objective.share": ("-", 0.5),
    }
    for one in RECIPES.values():
        assert differences(one, one) == []
        for other in RECIPES.values():
            there, back = differences(one, other), differences(other, one)
            assert {(p, b, a) for p, a, b in map(_text, there)} == {*map(_text, back)}
            # CaiT and XCiT leave only drop path to differ, which each variant has of its own, and
            # papers that put another backbone under a detector train it in the same way.
            backbones = bool(one.head and one.head == other.head)
            same = backbones or {one.name, other.name} == {"cait", "xcit"}
            assert there or one is other or same


def _text(row):
    return tuple(map(str, row))


def test_an_unknown_recipe_has_near_ones():
    with pytest.raises(ConfigError, match="'diet' does not exist: did you mean deit"):
        published("diet")
    with pytest.raises(ConfigError, match=r"known are deit, "):
        published("zzz")
    with pytest.raises(ConfigError, match="recipes deit and cait are both asked for"):
        asked(["recipe=deit", "recipe=cait"])
    assert asked(["model=a", "recipe = deit"]) == (DEIT, ["model=a"])


# ---- on the command line ---------------------------------------------------------------


def test_recipes_are_listed_described_and_compared(capsys):
    assert run("recipes") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in EVERY)
    assert run("recipes", "levit") == 0
    told = capsys.readouterr().out
    assert "steps.units" in told and "8192*" in told and "arXiv 2104.01136" in told
    assert run("recipes", "deit", "swin") == 0
    told = capsys.readouterr().out
    assert "steps.clip" in told and "optimizer.lr" not in told and "7 fields differ" in told


def test_recipes_are_told_to_programs(capsys):
    assert run("recipes", "--json") == 0
    every = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in every] == EVERY
    assert every[0]["fields"]["optimizer.lr"] == 1e-3 and every[0]["source"] == DEIT.source
    assert run("recipes", "deit", "cait", "--json") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == {"deit": 300, "cait": 400}


def test_recipes_need_no_torch():
    code = (
        "import sys; from vitrail.cli import app; app(['recipes', 'deit'], standalone_mode=False)\n"
        "print({'torch', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipes", "diet"], "did you mean deit"),
        (["recipes", "deit", "cait", "swin"], "3 recipes are more than can be compared"),
        (["train", "--recipe", "swim", "--set", "model=swin_tiny", "--set", "data=x"], "swin"),
        (["train", "--recipe", "deit", "--set", "data=x"], "model="),
        (
            ["train", "--recipe", "levit", "--set", "model=levit_128s", "--set", "data=x"],
            "objective.teacher is not given",
        ),
        (
            ["train", "--resume", "--recipe", "deit", "--out", "x"],
            "--set recipe=deit changes a training that is under way",
        ),
    ],
)
def test_mistakes_are_one_sentence(capsys, arguments, words):
    assert words in refused(capsys, *arguments)


@pytest.mark.slow  # trains, exports and reports
@pytest.mark.parametrize("name", ["rsb_a1", "augreg_light2_regularised"])
def test_a_recipe_trains(tmp_path, monkeypatch, name):
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    photos = write_classes(tmp_path / "photos", {"cat": 20, "dog": 20})
    said = StringIO()
    settings = [
        f"recipe={name}", "model=cct_2_3x2_32", f"data={photos}", "model.image=16,16",
        "model.dim=16", "model.depth=1", "steps.batch=8", "steps.total=3",
    ]  # fmt: skip
    console = Console(file=said, width=500)
    out = train_recipe(settings, out=tmp_path / "run", threads=1, device="cpu", console=console)
    told = json.loads((out / "recipe.json").read_text())
    assert told["steps"]["total"] == 3 and told["model"]["drop_path"] == RECIPES[name].drop_path
    assert told["optimizer"]["kind"] == RECIPES[name].settings["optimizer"]
    assert told["augment"]["mixup"] == RECIPES[name].settings["augment.mixup"]
    assert f"recipe {name}, " in said.getvalue() and "learning rate" in said.getvalue()
    result = json.loads((out / "result.json").read_text())
    assert f"vitrail train --recipe {name} --set model=cct_2_3x2_32" in result["command"]


@pytest.mark.parametrize("name", ["deit", "augreg_none_regularised"])
def test_a_recipe_fits_a_vit(name):
    recipe, _ = at_hand(name, "model=vit_ti16", "model.image=32,32")
    with torch.device("meta"):
        model = create(recipe.config)
    for method in recipe.methods:
        method.check(model)
