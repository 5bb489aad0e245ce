"""Methods that adapt a trained backbone: what a training moves, and how it goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import toy

from vitrail.errors import ConfigError
from vitrail.layers.fold import deploy
from vitrail.methods import VPT, Freeze, LoRA
from vitrail.methods.lora import LowRank
from vitrail.models import create, small_configs
from vitrail.objectives.cross_entropy import CrossEntropyLoss
from vitrail.training.learner import Learner
from vitrail.training.loop import Place, Plan, train
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule

METHODS: dict[str, Any] = {
    "vpt": VPT(3, dropout=0.2),
    "vpt_shallow": VPT(3, "shallow", projection=5),
    "lora": LoRA(2, layers=("*",)),
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
    configs = small_configs(family, image=(32, 32), channels=3, classes=5)
    model: Any = create(
        min(configs, key=lambda c: (getattr(c, "depth", 1), -getattr(c, "patch", 1)))
    )
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
