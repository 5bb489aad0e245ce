"""FlexiViT at the size of its own kernel against timm with the same random weights."""

from agree import difference
from support.peers import timm

from vitrail.models.flexivit import Config

SMALL = Config(
    dim=48, depth=2, heads=3, hidden=96, patch=8, kernel=8, table=(4, 6), image=(32, 48), classes=7
)


def test_timm():
    peer = timm.models.VisionTransformer(
        img_size=(32, 48),
        patch_size=8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_ratio=2,
        num_classes=7,
        no_embed_class=True,
        act_layer="gelu_tanh",
    )
    assert difference(peer, SMALL, "timm", (32, 48)) <= 1e-6
