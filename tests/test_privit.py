"""PriViT's switches by the authors' figures, and what they save as the table predicts it."""

from __future__ import annotations

import re

import pytest
import torch
from support import golden
from test_backbones import build, image

import vitrail
from vitrail import checkpoint
from vitrail.errors import ConfigError
from vitrail.methods import PriViT
from vitrail.methods.private_cost import Network, operations
from vitrail.methods.privit import binarise, counts, penalties, switches
from vitrail.models import deit, vit

SMALL = {"dim": 12, "depth": 2, "heads": 3, "hidden": 10, "patch": 8, "classes": 5}


def test_logits_and_counts_are_those_of_the_authors():
    expected = golden.read(golden.FOLDER / "blocks" / "privit_tiny_224.json")
    state = golden.state(expected)
    own = {n: v for n, v in state.items() if not re.search("alphas|betas|pooler", n)}
    config = deit.Config(classes=200, drop_path=0.0)
    model = vitrail.load(config, own, source="transformers", dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12
    model = PriViT().apply(model)
    names = (
        "vit.encoder.layer.{}.intermediate.intermediate_act_fn.alphas",
        ("vit.encoder.layer.{}.attention.attention.betas.betas"),
    )
    with torch.no_grad():
        for kind, name in zip(switches(model), names, strict=True):
            for block, switch in enumerate(kind):
                switch.copy_(state[name.format(block)])
        x = golden.image(expected["input_shape"])
        found = {"logits_soft": model(x), "counts": torch.tensor(counts(model))}
        binarise(model)
        found["logits_hard"] = model(x)
    for name, value in found.items():
        assert golden.deviation(value, expected["outputs"][name]) <= 1e-6, name


@pytest.mark.parametrize(
    "config",
    [deit.Config(**SMALL, image=(32, 24)), vit.Config(**SMALL, image=(32, 24), pool="mean")],
)
def test_switches_that_are_on_change_nothing_and_those_that_are_off_are_polynomials(config):
    model = build(config, torch.float64)
    x = image(config, 2, torch.float64)
    with torch.no_grad():
        expected = model(x)
        PriViT().check(model)
        model = PriViT().apply(model)
        assert torch.allclose(model(x), expected, rtol=1e-10, atol=1e-12)
        n = 12 + (config is not None and isinstance(config, deit.Config))
        assert counts(model) == (2 * n, 2 * 3 * n)
        for kind in switches(model):
            for switch in kind:
                switch.zero_()
        ffn, y = model.get_submodule("blocks.0.ffn"), torch.randn(2, n, 12).double()
        assert torch.allclose(ffn(y), ffn.fc2(ffn.fc1(y)))
        assert counts(model) == (0, 0)


def test_the_penalties_are_sums_of_sizes_and_binary_switches_learn_no_more():
    model = PriViT().apply(build(deit.Config(**SMALL, image=(32, 24)), torch.float64))
    gelus, softmaxes = switches(model)
    with torch.no_grad():
        gelus[0][:] = -0.5
        softmaxes[1][0, 0, 0] = 1.5
    assert [p.item() for p in penalties(model)] == [13 + 6.5, 78.5]
    binarise(model)
    assert counts(model) == (13, 78)
    assert not any(s.requires_grad for kind in switches(model) for s in kind)
    again = PriViT().apply(build(deit.Config(**SMALL, image=(32, 24)), torch.float64))
    checkpoint.assign(again, model.state_dict(), dtype=torch.float64)
    assert counts(again) == (13, 78)


def test_fewer_switches_are_predicted_to_cost_less():
    """The table's own block: 197 tokens of 192, three heads."""
    config = deit.Config(depth=1, classes=10)
    model = PriViT().apply(vitrail.create(config))
    lan, wan = Network(), Network(1e6, 0.05)
    whole = operations(model)
    assert whole.numbers["softmax"] == 3 * 197 * 197
    assert whole.numbers["gelu"] == 197 * 768
    assert "square" not in whole.numbers
    gelus, softmaxes = switches(model)
    with torch.no_grad():
        softmaxes[0].zero_()
        polynomial = operations(model)
        gelus[0].zero_()
        least = operations(model)
    assert whole.messages - polynomial.messages == 143 - 3
    assert whole.bytes - polynomial.bytes == pytest.approx(81.2e6 - 2.8e6)
    assert polynomial.compute_s - least.compute_s == pytest.approx(3.204)
    assert least.latency_s(lan) < polynomial.latency_s(lan) < whole.latency_s(lan)
    assert whole.latency_s(wan) > whole.latency_s(lan)


def test_what_does_not_fit_is_said():
    with pytest.raises(ConfigError, match="privit needs plain attention, and"):
        PriViT().check(vitrail.create("cait_xxs24_224", depth=1, image=(32, 32)))
    with pytest.raises(ConfigError, match="has no switches"):
        operations(vitrail.create(deit.Config(depth=1)))
    with pytest.raises(ConfigError, match="is none: give numbers above 0"):
        Network(bandwidth=0)
