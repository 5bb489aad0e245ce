"""MLP-Mixer against timm with the same random weights."""

from functools import partial

import timm
from agree import difference
from torch import nn

from vitrail.models.mlp_mixer import Config

SMALL = Config(dim=48, depth=2, tokens=24, hidden=192, patch=8, image=(32, 48), classes=7)


def test_timm():
    # timm computes the exact GELU by default; the authors' code, and ours, the tanh form.
    peer = timm.models.MlpMixer(
        img_size=(32, 48),
        patch_size=8,
        embed_dim=48,
        num_blocks=2,
        num_classes=7,
        act_layer=partial(nn.GELU, approximate="tanh"),
    )
    assert difference(peer, SMALL, "timm", (32, 48)) <= 1e-6
