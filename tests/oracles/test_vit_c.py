"""ViT_C and ViT_P against torchvision with the same random weights, and their authors' files.

torchvision builds the stem from its `conv_stem_configs`, whose convolutions are those of the
paper; its patch stem makes a ViT_P.
"""

from dataclasses import replace

import pytest
import torch
from agree import difference
from support.peers import torchvision

import vitrail
from vitrail.models.vit_c import Config, stride

SMALL = Config(
    dim=48,
    depth=2,
    heads=3,
    hidden=96,
    stem=(8, 16, 16),
    strides=(2, 2, 1),
    image=(48, 48),
    classes=7,
)
PATCH = replace(SMALL, stem=(), strides=(), patch=8)


@pytest.mark.parametrize("config", [SMALL, PATCH], ids=["convolutions", "patches"])
def test_torchvision(config):
    stem = [
        torchvision.models.vision_transformer.ConvStemConfig(c, 3, s)
        for c, s in zip(config.stem, config.strides, strict=True)
    ]
    peer = torchvision.models.VisionTransformer(
        48, stride(config), 2, 3, 48, 96, num_classes=7, conv_stem_configs=stem or None
    )
    assert difference(peer, config, "torchvision", (48, 48)) <= 1e-6


def authors(model, first):
    """A model's state under the names of pycls; the position table may be sequence first."""
    theirs = {}
    for name, value in model.state_dict().items():
        for ours, other in (
            ("embed.convs.0.conv.", "stem.cstem0_conv."),
            ("embed.convs.0.norm.", "stem.cstem0_bn."),
            ("embed.proj.", "stem.cstem_last_conv."),
            ("embed.token", "class_token"),
            ("mixer.qkv.", "self_attention.attn_proj."),
            ("mixer.proj.", "self_attention.out_proj."),
            ("ffn.fc1.", "mlp_block.linear_1."),
            ("ffn.fc2.", "mlp_block.linear_2."),
            ("norm1.", "ln_1."),
            ("norm2.", "ln_2."),
            ("blocks.", "encoder.block_"),
            ("head.", "head.head_fc."),
        ):
            name = name.replace(ours, other)
        if name.startswith("norm."):
            name = f"encoder.ln.{name.removeprefix('norm.')}"
        theirs[name] = value
    row = torch.zeros(1, 1, model.config.dim)
    table = torch.cat([row, theirs.pop("embed.position")], 1)
    theirs["pos_embedding"] = table.transpose(0, 1) if first else table
    return theirs


@pytest.mark.parametrize("first", [True, False])
def test_authors_files(tmp_path, first):
    """The position table is sequence first in the later code and batch first before."""
    config = replace(SMALL, stem=(8,), strides=(8,))
    model = vitrail.create(config).eval()
    averaged = authors(model, first)
    last = {name: value + 1 for name, value in averaged.items()}
    torch.save({"epoch": 7, "model_state": last, "ema_state": averaged}, tmp_path / "model.pyth")
    found = vitrail.load(config, tmp_path / "model.pyth", source="facebookresearch/pycls")
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_any_size():
    """A stem of convolutions rounds up, patches refuse what does not fit."""
    model = vitrail.create(SMALL).eval()
    x = torch.randn(1, 3, 45, 51)
    with torch.no_grad():
        assert model.features(x)[0].shape == (1, 12, 13, 48)
        assert model(x).shape == (1, 7)
    with pytest.raises(ValueError, match=r"45x51; .* multiples of its patch 8"):
        vitrail.create(PATCH)(x)


def test_moved_positions():
    """`load(image=)` resamples once what the model would resample on the way."""
    model = vitrail.create(SMALL).double().eval()
    state = model.state_dict()
    moved = vitrail.load(SMALL, state, image=(64, 40), dtype=torch.float64)
    x = torch.randn(1, 3, 64, 40, dtype=torch.float64)
    with torch.no_grad():
        assert (moved.embed(x) - model.embed(x)).abs().max() <= 1e-12


def test_refusals():
    for changes, match in (
        ({"pool": "max"}, "expected token or mean"),
        ({"strides": (2, 2)}, "differ in length"),
        ({"heads": 5}, "192 does not divide into 5 heads"),
    ):
        with pytest.raises(vitrail.errors.ConfigError, match=match):
            vitrail.create("vit_c_1gf", **changes)
    with pytest.raises(vitrail.errors.ConfigError, match=r"225x224; .* patch 16"):
        vitrail.create("vit_p_1gf", image=(225, 224))
