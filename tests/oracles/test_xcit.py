"""XCiT against timm with the same random weights, and the authors' network of a robust recipe."""

from dataclasses import replace

import pytest
import torch
from agree import difference
from support import golden
from support.peers import timm

import vitrail
from vitrail.models.xcit import Config

SMALL = Config(dim=48, depth=2, heads=4, strides=(2, 2, 2), classes=7)


@pytest.mark.parametrize("tokens_norm", [True, False])
@pytest.mark.parametrize(("patch", "image"), [(8, (52, 64)), (16, (96, 128))])
def test_timm(patch, image, tokens_norm):
    peer = timm.models.Xcit(
        img_size=64,
        patch_size=patch,
        embed_dim=48,
        depth=2,
        num_heads=4,
        cls_attn_layers=2,
        eta=1.0,
        tokens_norm=tokens_norm,
        num_classes=7,
    )
    strides = (2,) * (3 if patch == 8 else 4)
    config = replace(SMALL, strides=strides, tokens_norm=tokens_norm)
    assert difference(peer, config, "timm", image) <= 1e-6


@pytest.mark.parametrize("name", ["pgd", "trades"])
def test_the_authors_network_in_a_robust_recipe(name):
    """Its stem is adapted to patches of 4; images and their normalisation are the recipe's."""
    expected = golden.read(golden.FOLDER / "blocks" / f"robust_xcit_mini_p4_{name}.json")
    state = {
        n.removeprefix("net."): v for n, v in golden.state(expected).items() if n.startswith("net.")
    }
    config = Config(dim=64, depth=4, heads=4, strides=(1, 1, 2, 2), image=(32, 32), classes=10)
    model = vitrail.load(config, state, source="facebookresearch/xcit", dtype=torch.float64)
    mean = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.2471, 0.2435, 0.2616], dtype=torch.float64)[:, None, None]
    image = golden.image(expected["input_shape"]).sigmoid()
    with torch.no_grad():
        logits = model((image - mean) / std)
    assert golden.deviation(logits, expected["outputs"]["logits"]) <= 1e-6
