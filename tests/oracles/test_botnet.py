"""BoTNet against timm's networks with the same random weights."""

from dataclasses import replace

import pytest
from agree import difference
from support.peers import timm

from vitrail.models import catalog


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("peer", "ours", "image"),
    [
        ("botnet26t_256", "botnet_26t", (256, 256)),
        ("botnet26t_256", "botnet_26t", (64, 96)),
        ("botnet50ts_256", "botnet_50ts", (128, 64)),
        ("sebotnet33ts_256", "sebotnet_33ts", (128, 96)),
    ],
)
def test_timm(peer, ours, image, scaled):
    model = timm.create_model(peer, img_size=image, num_classes=7)
    for module in model.modules():
        if isinstance(module, timm.layers.bottleneck_attn.BottleneckAttn):
            module.scale_pos_embed = scaled
    config = replace(catalog()[ours].config, image=image, classes=7, scaled=scaled)
    assert difference(model, config, "timm", image) <= 1e-6
