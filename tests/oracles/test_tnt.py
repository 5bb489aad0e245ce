"""TNT against timm with the same random weights."""

from agree import difference
from support.peers import timm

from vitrail.models.tnt import Config

SMALL = Config(dim=48, depth=2, heads=3, inner=12, inner_heads=2, image=(32, 48), classes=7)


def test_timm():
    peer = timm.models.tnt.TNT(
        img_size=(32, 48),
        embed_dim=48,
        inner_dim=12,
        depth=2,
        num_heads_inner=2,
        num_heads_outer=3,
        num_classes=7,
        legacy=True,
    )
    assert difference(peer, SMALL, "timm", (32, 48)) <= 1e-6
