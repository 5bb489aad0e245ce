"""BoTNet against timm's networks with the same random weights."""

from dataclasses import replace

import pytest
from agree import difference, weekly
from support.peers import timm

from vitrail.models import catalog


@pytest.mark.parametrize(
    ("peer", "ours", "image", "scaled"),
    [
        ("botnet26t_256", "botnet_26t", (64, 96), False),
        ("botnet26t_256", "botnet_26t", (64, 96), True),
        ("sebotnet33ts_256", "sebotnet_33ts", (128, 96), False),
        *weekly(
            ("botnet26t_256", "botnet_26t", (256, 256), False),
            ("botnet26t_256", "botnet_26t", (256, 256), True),
            ("botnet50ts_256", "botnet_50ts", (128, 64), False),
            ("botnet50ts_256", "botnet_50ts", (128, 64), True),
            ("sebotnet33ts_256", "sebotnet_33ts", (128, 96), True),
        ),
    ],
)
def test_timm(peer, ours, image, scaled):
    model = timm.create_model(peer, img_size=image, num_classes=7)
    for module in model.modules():
        if isinstance(module, timm.layers.bottleneck_attn.BottleneckAttn):
            module.scale_pos_embed = scaled
    config = replace(catalog()[ours].config, image=image, classes=7, scaled=scaled)
    assert difference(model, config, "timm", image) <= 1e-6
