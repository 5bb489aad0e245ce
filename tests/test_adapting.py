"""Methods that adapt a trained backbone: what a training moves, and how it goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import golden, toy
from support.small import shallowest
from test_vpt import vit

from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.methods import (
    VPT,
    Adapter,
    BiasTuning,
    Freeze,
    LoRA,
    MlpHead,
    NormTuning,
    PlacedPrompts,
    SideTune,
)
from vitrail.methods.adapter import Bottleneck
from vitrail.methods.lora import LowRank
from vitrail.models import create
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.recipes.build import Builder
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, train
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule
from vitrail.training.steps import Steps

METHODS: dict[str, Any] = {
    "vpt": VPT(3, dropout=0.2),
    "vpt_shallow": VPT(3, "shallow", projection=5),
    "lora": LoRA(2, layers=("*",)),
    "adapter": Adapter(4),
    "bias": BiasTuning(),
    "norm": NormTuning(),
    "probe": Freeze(),
    "partial": Freeze(1),
    "placed": PlacedPrompts("channels"),
    "mlp_head": MlpHead(1),
    "side_tune": SideTune(4),
}


def small(**more) -> Any:
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "patch": 3, "drop_path": 0.1}
    return create("vit_ti16", image=(12, 12), channels=1, classes=4, **sizes | more)


def trained(folder, method, **place):
    steps = toy.STEPS
    plan = Plan(AdamW(lr=3e-2), Schedule(2), steps, (method,))
    learner = Learner(method.apply(small()), CrossEntropyLoss())
    data = toy.batches(steps.batch // steps.accumulate, augment=toy.AUGMENT)
    return train(learner, data, plan, Place(folder, device="cpu", **place))


def states(outcome):
    return [m.state_dict() for m in (outcome.model, outcome.ema_model)]


@pytest.mark.parametrize("kind", METHODS)
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, kind):
    """And what is frozen is what it was, also in the average of weights."""
    method = METHODS[kind]
    start = method.apply(small())
    fixed = [n for n, p in start.named_parameters() if not p.requires_grad]
    whole = states(trained(tmp_path / "whole", method))
    torch.manual_seed(99)
    trained(tmp_path / "parts", method, until=7)
    torch.rand(5)
    parts = states(trained(tmp_path / "parts", method, resume=True))
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    first = start.state_dict()
    assert fixed and all(torch.equal(whole[0][name], first[name]) for name in fixed)
    moved = [n for n, v in first.items() if not torch.equal(whole[0][n], v)]
    assert set(moved) == set(first) - set(fixed)


# ---- LoRA ------------------------------------------------------------------------------

BOTH = ("vit", "deit", "swin", "cait", "pvt", "mlp_mixer")


def of(family) -> Any:
    torch.manual_seed(0)
    model: Any = create(shallowest(family, 32))
    torch.nn.init.normal_(next(p for p in model.head.parameters() if p.ndim > 1))
    return model.double().eval()


def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("family", BOTH)
def test_lora_begins_as_the_model_and_is_merged_into_its_weights(family):
    model, x = of(family), images()
    names = set(model.state_dict())
    method = LoRA(2, layers=("*",))
    method.check(model)
    assert set(model.state_dict()) == names  # a check changes nothing
    with torch.no_grad():
        before = model(x)
        changed = method.apply(model)
        assert torch.equal(changed(x), before)
        thin = [m for m in changed.modules() if isinstance(m, LowRank)]
        for module in thin:
            torch.nn.init.normal_(module.up, std=0.1)
        after = changed(x)
        merged: Any = deploy(changed)
        assert (after - before).abs().max() > 1e-3
        assert (merged(x) - after).abs().max() <= 1e-10
        assert not any(isinstance(m, LowRank) for m in merged.modules())
        assert any(isinstance(m, LowRank) for m in changed.modules())  # and stays to be trained
    with torch.enable_grad():
        assert (changed(x) - after).abs().max() <= 1e-10
    assert names < set(changed.state_dict())


def test_lora_adds_what_the_paper_says_to_the_layers_that_are_named():
    model = LoRA(3, alpha=6.0, layers=("qkv", "fc1")).apply(small()).double().eval()
    thin = {n for n, m in model.named_modules() if isinstance(m, LowRank)}
    assert thin == {f"blocks.{i}.{n}" for i in range(2) for n in ("mixer.qkv", "ffn.fc1")}
    layer: Any = model.get_submodule("blocks.0.ffn.fc1")
    torch.nn.init.normal_(layer.up)
    x = torch.randn(5, 16).double()
    wanted = x @ layer.weight.T + layer.bias + 2 * (x @ layer.down.T) @ layer.up.T
    assert (layer(x) - wanted).abs().max() <= 1e-12


def test_lora_says_where_it_does_not_fit():
    for settings, said in [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, r"alpha is 0\.0"),
        ({"layers": ()}, "layers is empty"),
    ]:
        with pytest.raises(ConfigError, match=said):
            LoRA(**settings)
    with pytest.raises(ConfigError, match=r"no linear layer called q in .* fc1, fc2, proj, qkv"):
        LoRA(layers=("q",)).check(small())
    with pytest.raises(ConfigError, match=r"rank is 17: blocks\.0\.mixer\.qkv has 16 channels"):
        LoRA(17).check(small())
    with pytest.raises(ConfigError, match="its blocks have none"):
        LoRA().check(create("resnet_18", image=(32, 32)))
    with pytest.raises(ConfigError, match="reads weights past the layer"):
        LoRA(2, layers=("fc1",)).check(of("cvt"))
    with pytest.raises(ConfigError, match="lora comes after freeze"):
        LoRA().check(Freeze().apply(small()))


# ---- adapters --------------------------------------------------------------------------


def test_golden_of_an_adapter():
    expected = golden.read(golden.FOLDER / "blocks" / "vpt_adapter_mini.json")
    model, own = vit(expected)
    method = Adapter(8)
    method.check(model)
    model = method.apply(model)
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            for part in ("down", "up"):
                for name, parameter in getattr(block.ffn, part).named_parameters():
                    parameter.copy_(own.pop(f"blocks.{i}.adapter_{part}sample.{name}"))
        logits = model(*golden.inputs(expected))
    assert not own
    assert golden.deviation(logits, expected["outputs"]["logits"]) <= 1e-6
    assert (
        sum(p.numel() for p in model.parameters()) == expected["params"] - 64
    )  # class token's row


@pytest.mark.parametrize("family", ["vit", "deit", "swin", "cait", "mlp_mixer"])
def test_adapters_begin_as_the_model_and_learn_from_the_first_step(family):
    model, x = of(family), images()
    method = Adapter(4)
    method.check(model)
    with torch.no_grad():
        before = model(x)
        changed = method.apply(model)
        assert torch.equal(changed(x), before)
        for module in [m for m in changed.modules() if isinstance(m, Bottleneck)]:
            assert 0 < module.down.weight.std() < 0.02
            torch.nn.init.normal_(module.up.weight, std=0.1)
        after = changed(x)
        merged: Any = deploy(changed)
        assert (after - before).abs().max() > 1e-6
        assert (merged(x) - after).abs().max() <= 1e-10


def test_an_adapter_says_where_it_does_not_fit():
    with pytest.raises(ConfigError, match="reduction is 0"):
        Adapter(0)
    with pytest.raises(ConfigError, match=r"narrower than its reduction of 32"):
        Adapter(32).check(small())
    with pytest.raises(ConfigError, match=r"needs blocks with a feed-forward .* seams stem"):
        Adapter().check(create("resnet_18", image=(32, 32)))


# ---- biases and norms ------------------------------------------------------------------


def test_biases_and_norms_are_what_is_trained():
    trained = {}
    for method in (BiasTuning(), NormTuning()):
        method.check(model := small())
        named = method.apply(model).named_parameters()
        trained[type(method)] = {n for n, p in named if p.requires_grad}
    head, norms = {"head.weight", "head.bias"}, {"norm.", "norm1.", "norm2."}
    names = {n for n, _ in small().named_parameters()}
    assert trained[BiasTuning] == head | {n for n in names if n.endswith("bias")}
    assert trained[NormTuning] == head | {n for n in names if any(part in n for part in norms)}


@pytest.mark.parametrize("family", ["vit_c", "localvit"])
def test_batch_norms_keep_biases_and_statistics(family):
    model, method = of(family), BiasTuning()
    method.check(model)
    learner: Any = Learner(method.apply(model), torch.nn.Module()).train()  # pyright: ignore
    before = {n: v.clone() for n, v in model.state_dict().items()}
    learner.model(images())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(p.requires_grad for m in norms for p in m.parameters())


@pytest.mark.parametrize("method", [BiasTuning(), NormTuning(), Adapter(), LoRA(), Freeze()])
def test_one_method_adapts_at_a_time(method):
    with pytest.raises(ConfigError, match=r"comes after vpt, .* take one of them"):
        method.check(VPT(2).apply(small()))


def test_biases_and_norms_are_asked_for_where_there_are_none():
    with pytest.raises(ConfigError, match="bias_tuning trains biases outside its head, and this"):
        BiasTuning().check(create("resnet_18", image=(32, 32)))
    with pytest.raises(ConfigError, match="norm_tuning trains LayerNorms, and this model has"):
        NormTuning().check(create("resnet_18", image=(32, 32)))


# ---- on published weights --------------------------------------------------------------


def test_a_builder_draws_the_same_prompts_whenever_it_read_the_checkpoint(tmp_path):
    source: Any = create("cct_2_3x2_32", classes=10)
    torch.save(source.state_dict(), tmp_path / "cct.pth")
    settings = ["model=cct_2_3x2_32", "methods=vpt", f"pretrained={tmp_path / 'cct.pth'}"]
    recipe = amend(Recipe({}, Data("x"), Steps(1, 1)), settings)
    builder = Builder()
    one, two, other = (b.learner(recipe).state_dict() for b in (builder, builder, Builder()))
    assert "model.prompts.tokens.0" in one
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    kept = one["model.blocks.0.block.mixer.qkv.weight"]
    assert torch.equal(kept, source.state_dict()["blocks.0.mixer.qkv.weight"])
