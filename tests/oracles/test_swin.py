"""Swin against torchvision, timm and transformers with the same random weights.

Images other than the config's exercise padding, odd merging and shifts per axis, as
torchvision does them. timm pads after rolling, so it is asked where windows fit; transformers
never shifts a map that is as short as a window on one side, so where both sides are longer.
"""

from dataclasses import replace

import pytest
from agree import difference
from support.peers import timm, torchvision, transformers

from vitrail.models.swin import Config

SMALL = Config(dim=24, depths=(2, 2, 2), heads=(2, 3, 6), window=4, image=(64, 64), classes=7)


@pytest.mark.parametrize("image", [(64, 64), (96, 64), (120, 88), (76, 132)])
def test_torchvision(image):
    peer = torchvision.models.SwinTransformer(
        [4, 4], 24, [2, 2, 2], [2, 3, 6], [4, 4], num_classes=7
    )
    assert difference(peer, SMALL, "torchvision", image) <= 1e-6


@pytest.mark.parametrize("image", [(64, 64), (128, 192)])
def test_timm(image):
    sizes = {"embed_dim": 24, "depths": (2, 2, 2), "num_heads": (2, 3, 6), "window_size": 4}
    peer = timm.models.SwinTransformer(**sizes, img_size=image, num_classes=7)
    assert difference(peer, replace(SMALL, image=image), "timm", image) <= 1e-6


@pytest.mark.parametrize(("image", "absolute"), [((64, 64), True), ((120, 88), False)])
def test_transformers(image, absolute):
    peer = transformers.SwinForImageClassification(
        transformers.SwinConfig(
            image_size=64,
            embed_dim=24,
            depths=[2, 2, 2],
            num_heads=[2, 3, 6],
            window_size=4,
            use_absolute_embeddings=absolute,
            num_labels=7,
        )
    )
    ours = replace(SMALL, position="both" if absolute else "relative")
    assert difference(peer, ours, "transformers", image, lambda y: y.logits) <= 1e-6
