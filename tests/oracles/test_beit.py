"""BEiT against timm with the same random weights, with and without LayerScale and positions."""

from dataclasses import replace

import pytest
from agree import difference
from support.peers import timm

from vitrail.models.beit import Config

SMALL = Config(dim=48, depth=2, heads=3, hidden=96, patch=8, image=(32, 48), classes=7)
TIMM = {
    "img_size": (32, 48),
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 2,
    "num_classes": 7,
    "use_rel_pos_bias": True,
}


@pytest.mark.parametrize("scale", [0.0, 0.1])
@pytest.mark.parametrize("position", ["relative", "both"])
def test_timm(scale, position):
    peer = timm.models.beit.Beit(
        **TIMM, init_values=scale or None, use_abs_pos_emb=position == "both"
    )
    config = replace(SMALL, scale=scale, position=position)
    assert difference(peer, config, "timm", (32, 48)) <= 1e-6
