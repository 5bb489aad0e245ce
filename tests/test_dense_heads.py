"""Heads of maps on pyramids: every host, names of the authors, counts, what they are made of."""

from __future__ import annotations

import doctest
from contextlib import suppress
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vitrail
from vitrail import models
from vitrail.config import kind_of
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.fold import deploy
from vitrail.models import cswin, semantic_fpn, swin, upernet
from vitrail.models.parts.pyramid_hosts import Pyramids

SMALL_SWIN = swin.Config(
    dim=16, depths=(1, 1), heads=(2, 2), window=4, image=(32, 48), classes=5, drop_path=0.0
)
SMALL_CSWIN = cswin.Config(
    dim=16, depths=(1, 1), heads=(2, 2), stripes=(1, 2), image=(32, 48), classes=5, drop_path=0.0
)
HEADS = {
    "fpn": lambda host: semantic_fpn.Config(host, width=8),
    "upernet": lambda host: upernet.Config(host, width=8, dropout=0.0),
}


def made(config):
    torch.manual_seed(0)
    model = vitrail.create(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def smallest(family):
    """The narrowest of the first three configs of a host that can be built for 64 x 64."""
    widths = []
    for config in models.families()[family].SPACE.configs(image=(64, 64), channels=3, classes=5):
        with suppress(ConfigError):  # what a space has beside what can be built
            widths.append((models.trunk.catalog.skeleton(config).width, config))
        if len(widths) == 3:
            break
    return min(widths, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("family", [kind_of(kind) for kind in get_args(Pyramids)])
def test_every_host_answers_for_every_pixel(family):
    config = semantic_fpn.Config(replace(smallest(family), drop_path=0.0), width=8)
    model = made(config)
    image = noise(2, 3, 64, 64)
    with torch.no_grad():
        scores = model(image)
        alone = torch.cat([model(one[None]) for one in image])
        folded = deploy(model)(image)
    assert scores.shape == (2, 5, 64, 64)
    assert (scores - alone).abs().max() <= 1e-9 * scores.abs().max()
    assert (scores - folded).abs().max() <= 1e-9 * scores.abs().max()
    assert models.config_from_json(models.config_json(config)) == config
    assert models.config_name(config).startswith(f"semantic_fpn-{family}-")


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("host", [SMALL_SWIN, SMALL_CSWIN], ids=["swin", "cswin"])
def test_gradients_reach_every_parameter(head, host):
    model = made(head(host)).train()
    model(noise(2, 3, 32, 48)).square().mean().backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # A softmax does not change where all keys get the same bias.
    assert all("qkv.bias" in name for name in still), still


@pytest.mark.parametrize("size", [(32, 48), (45, 37), (64, 96)])
def test_sizes_of_any_kind(size):
    model = made(upernet.Config(SMALL_SWIN, width=8))
    assert model(noise(1, 3, *size)).shape == (1, 5, *size)


def test_a_light_fpn_is_what_it_says():
    """Ten plain lines: laterals, sums from the coarsest on, a convolution each, and their sum."""
    model = made(semantic_fpn.Config(SMALL_CSWIN, width=8))
    image, head = noise(2, 3, 32, 48), model.head
    fine, coarse = (m.permute(0, 3, 1, 2) for m in model.features(image))

    def block(part, x):
        return part.norm(F.conv2d(x, part.conv.weight, padding=part.conv.padding))

    coarse = block(head.laterals[1], coarse)
    fine = block(head.laterals[0], fine) + _up(coarse, fine)
    total = block(head.smooth[0], fine).relu() + _up(block(head.smooth[1], coarse).relu(), fine)
    kernel = head.classifier.weight[:, :, None, None]
    scores = F.conv2d(total, kernel, head.classifier.bias)
    expected = F.interpolate(scores, (32, 48), mode="bilinear", align_corners=False)
    assert (model(image) - expected).abs().max() <= 1e-10


def _up(x, like):
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def test_pyramid_pooling_sees_the_whole_map():
    """A change in one corner of the image moves scores in the opposite one, through means alone."""
    config = upernet.Config(replace(SMALL_CSWIN, image=(64, 64)), width=8)
    model = made(config)
    image = noise(1, 3, 64, 64)
    other = image.clone()
    other[..., :8, :8] += 1
    assert (model(image) - model(other))[..., -1, -1].abs().max() > 0


@pytest.mark.parametrize("name", [n for n in models.dense() if n.startswith("upernet")])
def test_published_counts(name):
    """With the auxiliary head: 3x3 to 256 channels with its norm, then classes."""
    variant = models.dense()[name]
    model = models.trunk.catalog.skeleton(variant.config)
    third = model.levels[2].channels
    auxiliary = 9 * third * 256 + 2 * 256 + 257 * 150
    counted = (sum(p.numel() for p in model.parameters()) + auxiliary) / 1e6
    # CSWin-T's is said to have 60, as many as Swin-T's, whose backbone is larger by 6.
    published = 52.1 if name == "upernet_cswin_tiny" else variant.params_m
    assert counted == pytest.approx(published, rel=0.015)


def theirs(state, host):
    """The names that the authors give to our tensors, written the other way round."""
    found = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for ours, other in [
            ("head.scene.", "decode_head.bottleneck."),
            ("head.fused.", "decode_head.fpn_bottleneck."),
            ("head.laterals.", "decode_head.lateral_convs."),
            ("head.smooth.", "decode_head.fpn_convs."),
            ("head.classifier.", "decode_head.conv_seg."),
        ]:
            name = name.replace(ours, other)
        if name.startswith("head.pooled."):
            number, rest = name.removeprefix("head.pooled.").split(".", 1)
            name = f"decode_head.psp_modules.{number}.1.{rest}"
        if name.startswith("decode_head.") and "conv_seg" not in name:
            name = name.replace(".norm.", ".bn.")
        if name == "decode_head.conv_seg.weight":
            value = value[:, :, None, None]
        if name.startswith("norms."):
            number = int(name.split(".")[1]) + (host == "cswin")
            name = f"backbone.norm{number}.{name.split('.')[2]}"
        name = name.replace("backbone.stem.", "backbone.patch_embed.") if host == "swin" else name
        if host == "swin" and name.startswith("backbone.stages."):
            number = int(name.split(".")[2])
            down = name.split(".")[3] == "down"
            name = name.replace(f"stages.{number}.", f"layers.{number - down}.", 1)
            name = name.replace(".down.", ".downsample.").replace(".mixer.", ".attn.")
            name = name.replace(".bias.table", ".relative_position_bias_table")
            name = name.replace(".ffn.", ".mlp.")
        found[name] = value
    return found | {"auxiliary_head.conv_seg.bias": torch.zeros(150)}


def test_names_of_swins_authors():
    config = upernet.Config(SMALL_SWIN, width=8)
    model = made(config)
    state = theirs(model.state_dict(), "swin")
    again = vitrail.load(config, state, source="microsoft/Swin-Transformer", dtype=torch.float64)
    image = noise(1, 3, 32, 48)
    assert torch.equal(model(image), again(image))
    del state["decode_head.bottleneck.conv.weight"]
    with pytest.raises(CheckpointError, match=r"decode_head.bottleneck|scene"):
        vitrail.load(config, state, source="microsoft/Swin-Transformer")


@pytest.mark.parametrize("module", [semantic_fpn, upernet], ids=["fpn", "upernet"])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_a_network_without_classes_gives_its_finest_map():
    model = vitrail.create(semantic_fpn.Config(replace(SMALL_SWIN, classes=0)))
    assert not list(model.head.parameters()) and not isinstance(model.head, nn.Identity)
    assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 16, 32, 48)
