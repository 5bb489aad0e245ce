"""CoAtNet against timm with the same random weights: the paper's way to half the size and timm's.

timm's maps are those of its image, of multiples of 32 pixels.
"""

from dataclasses import replace

import pytest
from agree import difference, hollow
from support.peers import timm

from vitrail.models.coatnet import VARIANTS, Config

SMALL = Config(stem=16, dims=(24, 32, 64, 96), depths=(1, 2, 2, 1), channels_per_head=16, classes=7)
KINDS = {"max": ("max2", "1x1"), "average": ("avg2", "dw")}


@pytest.mark.parametrize("down", KINDS)
@pytest.mark.parametrize("layout", ["CCTT", "CTTT", "CCCT"])
@pytest.mark.parametrize("image", [(64, 64), (96, 160)])
def test_timm(down, layout, image):
    (pool, stride), config = KINDS[down], replace(SMALL, down=down, layout=layout, image=image)
    theirs = timm.models.maxxvit.MaxxVitCfg(
        embed_dim=config.dims,
        depths=config.depths,
        block_type=tuple(layout),
        stem_width=config.stem,
        head_hidden_size=config.dims[-1],
        conv_cfg=timm.models.maxxvit.MaxxVitConvCfg(pool_type=pool, stride_mode=stride),
        transformer_cfg=timm.models.maxxvit.MaxxVitTransformerCfg(dim_head=16, pool_type=pool),
    )
    peer = timm.models.maxxvit.MaxxVit(theirs, img_size=image, num_classes=7)
    assert difference(peer, config, "timm", image) <= 1e-6


def test_timm_as_it_is():
    config = replace(VARIANTS["coatnet_0_timm"].config, image=(96, 64))
    peer = timm.create_model("coatnet_0_224", img_size=(96, 64))
    assert difference(peer, config, "timm", (96, 64)) <= 1e-6


def test_rw_models_are_not_ours():
    """The only ones with published weights have other tensors, and loading says so."""
    import vitrail

    state = hollow(lambda: timm.create_model("coatnet_0_rw_224"))
    with pytest.raises(vitrail.errors.CheckpointError, match="does not fit coatnet_0"):
        vitrail.load("coatnet_0", state)
