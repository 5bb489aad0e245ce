"""MaxViT against timm's and torchvision's implementations with the same random weights."""

from dataclasses import replace

import pytest
from agree import difference
from support.peers import timm, torchvision

from vitrail.models.maxvit import Config

SMALL = Config(
    stem=16, dims=(16, 32), depths=(1, 2), channels_per_head=8, window=4, image=(32, 32), classes=7
)


@pytest.mark.parametrize("image", [(32, 32), (64, 32), (96, 160)])
def test_timm(image):
    peer = timm.create_model(
        "maxvit_tiny_tf_224",
        embed_dim=(16, 32),
        depths=(1, 2),
        block_type=("M", "M"),
        stem_width=16,
        head_hidden_size=32,
        transformer_dim_head=8,
        transformer_window_size=(4, 4),
        transformer_grid_size=(4, 4),
        img_size=image,
        num_classes=7,
    )
    assert difference(peer, SMALL, "timm", image) <= 1e-6


@pytest.mark.parametrize("image", [(32, 32), (64, 64)])
def test_torchvision(image):
    peer = torchvision.models.MaxVit(
        input_size=image,
        stem_channels=16,
        partition_size=4,
        block_channels=[16, 32],
        block_layers=[1, 2],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=7,
    )
    config = replace(SMALL, dialect="torchvision", image=image)
    assert difference(peer, config, "torchvision", image) <= 1e-6
