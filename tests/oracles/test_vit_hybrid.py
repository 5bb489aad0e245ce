"""The hybrids against timm, whose norm and weight standardisation have other epsilons."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from agree import difference
from support.peers import timm
from torch import nn

import vitrail

CASES = [
    ("vit_r_ti16", "vit_tiny_r_s16_p8_224", (64, 96)),
    ("vit_r26_s32", "vit_small_r26_s32_224", (64, 96)),
    ("vit_r26_s32", "vit_small_r26_s32_224", (75, 50)),
]


def authors(conv, x):
    """Weight standardisation as in the authors' code: the epsilon stands outside of the root."""
    if conv.same_pad:
        x = timm.layers.pad_same(x, conv.kernel_size, conv.stride)
    deviation, mean = torch.std_mean(conv.weight, (1, 2, 3), correction=0, keepdim=True)
    weight = (conv.weight - mean) / (deviation + 1e-5)
    return F.conv2d(x, weight, None, conv.stride, conv.padding)


def pair(name, peer, size):
    changes = {"depth": 1, "num_classes": 7, "act_layer": "gelu_tanh"}
    config = replace(vitrail.catalog()[name].config, depth=1, image=size, classes=7)
    return timm.create_model(peer, img_size=size, **changes), config


@pytest.mark.parametrize(("name", "peer", "size"), CASES)
def test_timm(name, peer, size, monkeypatch):
    monkeypatch.setattr(timm.layers.StdConv2dSame, "forward", authors)
    model, config = pair(name, peer, size)
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = 1e-6
    assert difference(model, config, "timm", size) <= 1e-6


def test_timm_as_it_is():
    """Its epsilons move logits by little, but more than rounding does."""
    assert 1e-6 < difference(*pair(*CASES[1]), "timm", CASES[1][2]) <= 1e-2
