"""CaiT against timm with the same random weights."""

from agree import difference
from support.peers import timm

from vitrail.models.cait import Config

SMALL = Config(dim=48, depth=2, heads=3, hidden=192, reading=2, patch=8, image=(32, 48), classes=7)


def test_timm():
    peer = timm.models.Cait(
        img_size=(32, 48),
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        num_classes=7,
        depth_token_only=2,
    )
    assert difference(peer, SMALL, "timm", (32, 48)) <= 1e-6
