"""LeViT against timm (linear and convolutional twins) and transformers, same random weights."""

from dataclasses import replace

import pytest
import torch
from agree import difference
from support.peers import timm, transformers

import vitrail
from vitrail.models.levit import Config

SMALL = Config((32, 48, 64), (2, 3, 4), (2, 1, 2), key_dim=8, image=(80, 112), classes=7)
SIZES = {
    "embed_dim": (32, 48, 64),
    "num_heads": (2, 3, 4),
    "depth": (2, 1, 2),
    "key_dim": 8,
    "num_classes": 7,
}


@pytest.mark.parametrize("convolutional", [False, True])
def test_timm(convolutional):
    peer = timm.models.levit.LevitDistilled(**SIZES, img_size=(80, 112), use_conv=convolutional)
    assert difference(peer, SMALL, "timm", (80, 112)) <= 1e-6


def test_timm_undistilled():
    peer = timm.models.levit.Levit(**SIZES, img_size=(80, 112))
    assert difference(peer, replace(SMALL, distilled=False), "timm", (80, 112)) <= 1e-6


def test_transformers():
    peer = transformers.LevitForImageClassificationWithTeacher(
        transformers.LevitConfig(
            image_size=96,
            hidden_sizes=[32, 48, 64],
            num_attention_heads=[2, 3, 4],
            depths=[2, 1, 2],
            key_dim=[8, 8, 8],
            num_labels=7,
        )
    )
    config = replace(SMALL, image=(96, 96))
    assert difference(peer, config, "transformers", (96, 96), lambda y: y.logits) <= 1e-6


def test_two_logits_in_training():
    peer = timm.models.levit.LevitDistilled(**SIZES, img_size=(80, 112))
    peer.set_distilled_training(True)
    model = vitrail.load(SMALL, peer.state_dict(), source="timm")
    x = torch.randn(3, 3, 80, 112)
    with torch.no_grad():
        for expected, got in zip(peer.train()(x), model.train()(x), strict=True):
            assert (expected - got).abs().max() <= 1e-4
