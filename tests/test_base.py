"""Runs that share a base: what they store, how it is joined again, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.pictures import write_classes

import vitrail
from vitrail.config import to_json
from vitrail.data.labels import Labels
from vitrail.errors import CheckpointError, ConfigError
from vitrail.methods import VPT, Adapter, BiasTuning, Freeze, LoRA, NormTuning
from vitrail.models import config_json
from vitrail.recipes.base import settled
from vitrail.recipes.build import grown
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.folder import RunFolder
from vitrail.training.steps import Steps

METHODS = {
    "probe": Freeze(), "partial": Freeze(1), "vpt": VPT(3), "shallow": VPT(2, "shallow"),
    "lora": LoRA(2), "adapter": Adapter(4), "bias": BiasTuning(), "norm": NormTuning(),
}  # fmt: skip
SIZES = {"image": (16, 16), "patch": 4, "dim": 16, "depth": 2, "heads": 2, "hidden": 32}


def network(classes=4, seed=3):
    torch.manual_seed(seed)
    return vitrail.create("vit_ti16", classes=classes, **SIZES).eval()


def base_in(folder, seed=3):
    model = network(seed=seed)
    labels = Labels(("a", "b", "c", "d"), (16, 16), 3, (0.5,) * 3, (0.25,) * 3)
    with RunFolder.create(folder) as run:
        run.save_model(model, {"model": to_json(config_json(model.config))}, labels)
    return folder


def adapted(folder, base, method):
    """A run as if it had trained: what the method trains is moved."""
    config = replace(network().config, classes=2)
    recipe = Recipe(
        to_json(config_json(config)), Data("x"), Steps(1, 1), methods=(method,),
        base=settled(str(base)), pretrained=str(base / "weights.safetensors"),
    )  # fmt: skip
    model = grown(to_json(recipe), str(base), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    labels = Labels(("cat", "dog"), (16, 16), 3, (0.5,) * 3, (0.25,) * 3)
    with RunFolder.create(folder) as run:
        run.save_model(model, to_json(recipe), labels)
    return model.eval()


@pytest.mark.parametrize("kind", METHODS)
def test_a_run_stores_what_its_base_lacks_and_is_joined_to_the_same_bits(tmp_path, kind):
    base = base_in(tmp_path / "base")
    model = adapted(tmp_path / "run", base, METHODS[kind])
    stored = load_file(tmp_path / "run" / "weights.safetensors")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(stored) == trained
    again, recipe, _ = RunFolder.open(tmp_path / "run").load_model()
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert recipe["base"] == str(base)
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(image), again(image))


def test_base_and_runs_may_move_together_and_a_base_alone_when_the_recipe_says_so(tmp_path):
    home = tmp_path / "home"
    base = base_in(home / "base")
    adapted(home / "run", base, LoRA(2))
    moved = home.rename(tmp_path / "moved")
    RunFolder.open(moved / "run").load_model()
    (moved / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"the base of .*run, is not there: put it back, or"):
        RunFolder.open(moved / "run").load_model()
    recipe = json.loads((moved / "run" / "recipe.json").read_text())
    recipe["base"] = str(tmp_path / "elsewhere")
    (moved / "run" / "recipe.json").write_text(json.dumps(recipe))
    RunFolder.open(moved / "run").load_model()


def test_a_base_with_other_weights_is_refused(tmp_path):
    base = base_in(tmp_path / "base")
    adapted(tmp_path / "run", base, VPT(2))
    for file in base.iterdir():
        file.unlink()
    base.rmdir()
    base_in(tmp_path / "base", seed=4)
    with pytest.raises(CheckpointError, match=r"has other weights than the base that .*run was"):
        RunFolder.open(tmp_path / "run").load_model()


def test_what_is_no_base_is_one_sentence(tmp_path):
    base = base_in(tmp_path / "base")
    adapted(tmp_path / "run", base, VPT(2))
    for settings, error, said in [
        ([f"base={base}"], ConfigError, "is shared, so a method has to leave it as it is"),
        ([f"base={tmp_path / 'gone'}", "methods=lora"], CheckpointError, "does not exist"),
        (["base=", "methods=lora"], ConfigError, "base is empty"),
        ([f"base={tmp_path / 'run'}", "methods=lora"], CheckpointError, "has only what a run adds"),
        (
            [f"base={base}", f"pretrained={base}", "methods=lora"], ConfigError,
            "both say where to start",
        ),
        ([f"base={base}", "methods=vpt", "methods.0.prompts=-1"], ConfigError, "prompts is -1"),
        (
            [f"base={base}", "methods=lora", "methods.0.rank=20"], ConfigError,
            "rank is 20: .* has 16 channels",
        ),
    ]:  # fmt: skip
        with pytest.raises(error, match=said) as caught:
            vitrail.train([*settings, "data=photos"], out=tmp_path / "out")
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_training_on_a_base_leaves_a_small_run_that_predicts_and_exports(tmp_path):
    photos = write_classes(tmp_path / "photos", {"cat": 16, "dog": 16})
    base = base_in(tmp_path / "base")
    settings = [f"base={base}", "methods=lora", "methods.0.rank=2", f"data={photos}"]
    out = vitrail.train([*settings, "steps.total=3", "steps.batch=8"], out=tmp_path / "run")
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["base"] == str(base) and recipe["model"]["classes"] == 2
    small, whole = (f.stat().st_size for f in (out / "weights.safetensors",
                                               base / "weights.safetensors"))  # fmt: skip
    assert small < whole / 3 and not (out / "checkpoints").exists()
    with pytest.raises(ConfigError, match="keeps no snapshots"):
        vitrail.train(["steps.total=5"], out=out, resume=True)
    picture = next(photos.glob("cat/*"))
    [by_file] = vitrail.predict(out, picture)
    (out / "model.onnx").unlink()
    [joined] = vitrail.predict(out, picture)
    assert joined.answer == by_file.answer
    assert joined.ranked[0][1] == pytest.approx(by_file.ranked[0][1], abs=1e-4)
    made = vitrail.export(out)
    assert made.max_logit_difference < 1e-4
    assert vitrail.evaluate(out, photos).n == 32
