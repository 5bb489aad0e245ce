"""MViT against timm (images) and torchvision (clips) with the same random weights.

timm adds the class token's pooled query to what it found, which the authors' code does not: it
is asked without a class token.
"""

from dataclasses import replace
from functools import partial

import pytest
from agree import difference, hollow
from support.peers import timm, torchvision
from torch import nn

import vitrail
from vitrail.models.mvit import VARIANTS, Config

SMALL = Config(dim=16, heads=1, depths=(1, 2, 1), reduction=2, image=(64, 64), classes=7)


@pytest.mark.parametrize("widen", ["attention", "mlp"])
def test_timm(widen):
    cfg = timm.models.mvitv2.MultiScaleVitCfg(
        depths=(1, 2, 1),
        embed_dim=16,
        stride_q=((1, 1), (2, 2), (2, 2)),
        stride_kv_adaptive=(2, 2),
        expand_attn=widen == "attention",
    )
    peer = timm.models.mvitv2.MultiScaleVit(cfg, img_size=(64, 64), num_classes=7)
    ours = replace(SMALL, widen=widen)
    assert difference(peer, ours, "timm") <= 1e-6


def test_timm_names_and_sizes():
    """The published networks have timm's tensors, those of ImageNet-21k with a class token too."""
    for ours, theirs in (
        *(("mvitv2_t", "mvitv2_tiny"), ("mvitv2_l", "mvitv2_large")),
        *(("mvitv2_b_21k", "mvitv2_base_cls"), ("mvitv2_l_21k", "mvitv2_large_cls")),
    ):
        classes = VARIANTS[ours].config.classes
        state = hollow(partial(timm.create_model, theirs, num_classes=classes))
        vitrail.load(ours, state, source="timm")


def clips_of(second: bool) -> nn.Module:
    """torchvision's network of stages 1, 2 and 1 deep, as its mvit_v2_s or mvit_v1_b is made."""
    rows = []
    for i, (width, first) in enumerate([(16, False), (32, True), (32, False), (64, True)]):
        before, behind = (rows[-1].output_channels if rows else 16), (16, 32, 32, 64)[i]
        if not second:
            before, behind = width, (32, 32, 64, 64)[i]
        reduction = {16: 4, 32: 2, 64: 1}[width]
        rows.append(
            torchvision.models.video.mvit.MSBlockConfig(
                num_heads=width // 16,
                input_channels=before,
                output_channels=behind,
                kernel_q=[3, 3, 3] if first or second else [],
                kernel_kv=[3, 3, 3],
                stride_q=[1, 2, 2] if first else [1, 1, 1] if second else [],
                stride_kv=[1, reduction, reduction],
            )
        )
    return torchvision.models.video.MViT(
        spatial_size=(64, 64),
        temporal_size=6,
        block_setting=rows,
        residual_pool=second,
        residual_with_cls_embed=False,
        rel_pos_embed=second,
        proj_after_attn=second,
        num_classes=7,
    )


@pytest.mark.parametrize("second", [False, True])
def test_torchvision(second):
    ours = replace(SMALL, frames=6, reduction=4, pool="token")
    if not second:
        ours = replace(ours, queries="first", residual=False, widen="mlp", position="absolute")
    assert difference(clips_of(second), ours, "torchvision", (6, 64, 64)) <= 1e-6


@pytest.mark.parametrize(
    ("ours", "theirs"), [("mvit_b_16x4", "mvit_v1_b"), ("mvitv2_s_16x4", "mvit_v2_s")]
)
def test_torchvision_names_and_sizes(ours, theirs):
    vitrail.load(ours, hollow(getattr(torchvision.models.video, theirs)))
