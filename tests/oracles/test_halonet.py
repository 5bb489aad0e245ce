"""HaloNet against timm's networks with the same random weights."""

from dataclasses import replace

import pytest
from agree import difference, weekly
from support.peers import timm

from vitrail.models import catalog


@pytest.mark.parametrize(
    ("peer", "ours", "image", "scaled"),
    [
        ("halonet_h1", "halonet_h1", (256, 256), False),
        ("halonet26t", "halonet_26t", (256, 512), False),
        ("sehalonet33ts", "sehalonet_33ts", (256, 256), True),
        *weekly(
            ("halonet_h1", "halonet_h1", (256, 256), True),
            ("halonet26t", "halonet_26t", (256, 512), True),
            ("halonet50ts", "halonet_50ts", (256, 256), False),
            ("halonet50ts", "halonet_50ts", (256, 256), True),
            ("sehalonet33ts", "sehalonet_33ts", (256, 256), False),
        ),
    ],
)
def test_timm(peer, ours, image, scaled):
    model = timm.create_model(peer, num_classes=7)
    for module in model.modules():
        if isinstance(module, timm.layers.halo_attn.HaloAttn):
            module.scale_pos_embed = scaled
    config = replace(catalog()[ours].config, classes=7, scaled=scaled)
    if ours == "halonet_h1":
        config = replace(config, heads=(8, 8, 8, 8))
    assert difference(model, config, "timm", image) <= 1e-6
