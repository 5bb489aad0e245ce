"""Methods change a finished model from outside, say where they do not fit, and are kept by runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.small import shallowest
from test_fit import photos, quick  # noqa: F401
from torch import nn

from vitrail.config import kind_of, override, parse, to_json
from vitrail.errors import ConfigError
from vitrail.methods import PSS, VPT, Adapter, Dropout, Freeze, LoRA, Methods, PatchDropout
from vitrail.methods.method import available, seams, wrap
from vitrail.models import create, families
from vitrail.recipes.build import Builder
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.run.folder import RunFolder
from vitrail.training.learner import Learner
from vitrail.training.steps import Steps


def tiny(family, side=32):
    torch.manual_seed(0)
    return create(shallowest(family, side))


def answers(model, n=2):
    torch.manual_seed(1)
    with torch.no_grad():
        return model.eval()(torch.randn(n, 3, 32, 32))


# ---- seams -----------------------------------------------------------------------------


def test_seams_are_found_by_pattern_and_replaced():
    model = tiny("vit")
    mixers = seams(model, "blocks.*.mixer")
    assert [s.name for s in mixers] == [f"blocks.{i}.mixer" for i in range(len(model.blocks))]
    before = answers(model)
    wrap(model, "blocks.*.mixer", lambda inner: nn.Sequential(inner))
    assert isinstance(model.blocks[0].mixer, nn.Sequential)
    assert torch.equal(answers(model), before)


def test_a_missing_seam_is_one_sentence_that_names_those_there():
    with pytest.raises(ConfigError, match=r"resnet has no embed to change: its seams are stem, st"):
        seams(tiny("resnet"), "embed")


@pytest.mark.parametrize("family", list(families()))
def test_every_family_has_a_head_to_replace(family):
    with torch.device("meta"):
        assert "head" in available(tiny(family))


# ---- patch dropout ---------------------------------------------------------------------


@pytest.mark.parametrize("family", list(families()))
def test_patch_dropout_fits_or_says_what_the_model_has(family):
    method = PatchDropout(0.5)
    with torch.device("meta"):
        bare = tiny(family)
    names = list(bare.state_dict())
    try:
        method.check(bare)
    except ConfigError as error:
        assert "has the seams" in str(error)
        assert list(bare.state_dict()) == names  # a check changes nothing
        return
    model = tiny(family)
    before = answers(model)
    method.check(model)
    assert torch.equal(answers(model), before)
    changed = method.apply(model)
    assert torch.equal(answers(changed), before)  # nothing is dropped in eval mode
    outputs = changed.train()(torch.randn(2, 3, 32, 32))
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    first.sum().backward()
    assert first.shape == (2, 5)


def test_patch_dropout_keeps_tokens_of_each_image_and_the_prefix():
    model = PatchDropout(0.25).apply(create("deit_tiny", image=(64, 64), classes=3)).train()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    torch.manual_seed(0)
    image = torch.randn(2, 3, 64, 64)
    model(image)
    whole = model.embed.embed(image)
    (tokens,) = seen
    assert tokens.shape[1] == whole.shape[1] - 12  # 4 of 16 patches stay
    prefix = whole.shape[1] - 16
    assert torch.equal(tokens[:, :prefix], whole[:, :prefix])
    kept = [
        [int(torch.isclose(whole[i], token, atol=1e-5).all(1).nonzero()) for token in rest]
        for i, rest in enumerate(tokens[:, prefix:])
    ]
    assert kept[0] == sorted(kept[0]) and kept[0] != kept[1]


def test_patch_dropout_of_everything_is_the_model_itself():
    model = create("vit_ti16", image=(32, 32), classes=3, drop_path=0.0).train()
    image = torch.randn(2, 3, 32, 32)
    before = model(image)
    assert torch.equal(PatchDropout(1.0).apply(model)(image), before)


# ---- dropout ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit", "swin", "mlp_mixer", "cait"])
def test_dropout_acts_in_training_and_not_in_eval_mode(family):
    model = tiny(family)
    before = answers(model)
    names = len(model.state_dict())
    Dropout(0.2).check(model)
    changed = Dropout(0.2).apply(model)
    assert torch.equal(answers(changed), before) and len(changed.state_dict()) == names
    image = torch.randn(2, 3, 32, 32)
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = (changed.train().embedding(image) for _ in range(2))
    assert not torch.equal(first, second)


def test_dropout_drops_its_share_behind_positions_branches_and_inside():
    model = Dropout(0.25).apply(create("vit_ti16", image=(64, 64), classes=3)).train()
    tokens = model.embed(torch.randn(8, 3, 64, 64))[:, 1:]  # the class token begins at zero
    assert (tokens == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    ends = {type(block.drop_path).__name__ for block in model.blocks}
    inside = {block.ffn.dropout.p for block in model.blocks}
    assert ends == {"Branch"} and inside == {0.25}
    branch = model.blocks[0].drop_path(torch.ones(64, 100))
    assert branch.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]


def test_dropout_says_where_it_does_not_fit():
    with pytest.raises(ConfigError, match=r"blocks of a mixer and a feed-forward.*seams stem"):
        Dropout().check(tiny("resnet"))
    with pytest.raises(ConfigError, match=r"rate is 1\.0"):
        Dropout(1.0)


# ---- freeze ----------------------------------------------------------------------------


def test_freeze_trains_the_end_and_keeps_statistics():
    model = tiny("resnet")
    learner = Learner(Freeze().apply(model), nn.Module()).train()  # pyright: ignore
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and all(n.startswith("head.") for n in trained)
    norms = [m for m in learner.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)


def test_freeze_leaves_the_last_blocks():
    model = Freeze(blocks=2).apply(tiny("vit"))
    last = len(model.blocks) - 1
    trained = {
        n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad and "bl" in n
    }
    assert trained == {str(last - 1), str(last)}
    with pytest.raises(ConfigError, match="this model has"):
        Freeze(blocks=99).check(tiny("vit"))


# ---- as values -------------------------------------------------------------------------


def test_methods_are_chosen_and_changed_by_settings():
    recipe = Recipe({}, Data("x"), Steps(1, 1))
    recipe = override(recipe, ["methods=patch_dropout,freeze", "methods.0.keep=0.25"])
    assert recipe.methods == (PatchDropout(0.25), Freeze())
    told = json.loads(json.dumps(to_json(recipe)))
    dropout = {"kind": "patch_dropout", "keep": 0.25, "random_rate": False, "test_keep": 1.0}
    assert told["methods"][0] == dropout
    assert parse(Recipe, told) == recipe
    assert override(recipe, ["methods=[]"]).methods == ()
    with pytest.raises(ConfigError, match=r"methods.0: keep is 2.0"):
        override(recipe, ["methods.0.keep=2"])
    with pytest.raises(ConfigError, match="did you mean 'freeze'"):
        override(recipe, ["methods=frieze"])


def test_a_builder_makes_the_same_learner_every_time():
    recipe = amend(
        Recipe({}, Data("x"), Steps(1, 1)), ["model=cct_2_3x2_32", "methods=patch_dropout"]
    )
    one, two = (Builder().learner(recipe).state_dict() for _ in range(2))
    assert "model.embed.embed.position" in one
    assert all(torch.equal(one[name], two[name]) for name in one)


# One that drops tokens, one that adds some and one that changes layers are for every day.
KEPT = [
    pytest.param(PatchDropout(0.75), "keep=0.75", "Dropped", id="patch_dropout"),
    pytest.param(
        *(PSS(test_keep=0.5), "test_keep=0.5", "Sampled"), id="pss", marks=pytest.mark.slow
    ),
    pytest.param(VPT(3), "prompts=3", "Prompted", id="vpt"),
    pytest.param(LoRA(layers=("qkv", "fc1")), 'layers=["qkv", "fc1"]', "LowRank", id="lora"),
    pytest.param(Adapter(4), "reduction=4", "Bottleneck", id="adapter", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "setting", "place"), KEPT)
def test_a_run_with_a_method_loads_by_itself(photos, quick, tmp_path, method, setting, place):  # noqa: F811
    """And answers, is exported and explained like any other."""
    from vitrail.attribution import explain
    from vitrail.jobs.train import train_recipe

    settings = [
        "model=cct_2_3x2_32", f"data={photos}", "model.image=16,16", "model.dim=32",
        "steps.total=6", "steps.batch=16", f"methods={kind_of(type(method))}",
        f"methods.0.{setting}",
    ]  # fmt: skip
    out = train_recipe(settings, out=tmp_path / "run", threads=1, console=quick)
    model, recipe, labels = RunFolder.open(out).load_model()
    assert recipe["methods"][0]["kind"] == kind_of(type(method))
    (found,) = parse(Recipe, {**recipe, "model": {}}).methods
    whole = getattr(found, "test_keep", 1.0) == 1
    if isinstance(method, PatchDropout):  # its dial may stand elsewhere
        found = replace(found, test_keep=method.test_keep)
    assert found == method
    assert place in {type(m).__name__ for m in model.modules()} and not model.training
    import numpy as np
    import onnxruntime

    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    logits = session.run(["logits"], {"images": images})[0]
    with torch.no_grad():
        ours = model(labels.normalised(images)).numpy()
    assert np.abs(ours - logits).max() < 1e-4
    heat, how = explain(model, labels.normalised(images)[0], 0)
    assert heat.shape == (16, 16) and np.isfinite(heat).all()
    assert how == ("rollout" if whole else "gradient")


def test_the_union_is_the_registry():
    assert {m.__name__ for m in Methods.__args__} >= {"Freeze", "PatchDropout", "PSS"}
