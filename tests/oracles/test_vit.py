"""ViT against timm and transformers with the same random weights."""

from dataclasses import replace

from agree import difference
from support.peers import timm, transformers
from torch import nn

import vitrail
from vitrail.models.vit import Config

SMALL = Config(dim=48, depth=2, heads=3, hidden=96, patch=8, image=(32, 48), classes=7)
SIZES = {
    "img_size": (32, 48),
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 2,
}


def test_timm():
    # timm computes the exact GELU by default; the authors' code, and ours, the tanh form.
    peer = timm.models.VisionTransformer(**SIZES, num_classes=7, act_layer="gelu_tanh")
    assert difference(peer, SMALL, "timm", (32, 48)) <= 1e-6


def test_timm_mean():
    peer = timm.models.VisionTransformer(
        **SIZES,
        num_classes=7,
        act_layer="gelu_tanh",
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    )
    assert difference(peer, replace(SMALL, pool="mean"), "timm", (32, 48)) <= 1e-6


def test_timm_map():
    peer = timm.models.VisionTransformer(
        **SIZES,
        num_classes=7,
        act_layer="gelu_tanh",
        class_token=False,
        global_pool="map",
    )
    assert difference(peer, replace(SMALL, pool="map"), "timm", (32, 48)) <= 1e-6


def test_timm_sovit():
    """SigLIP's image tower is SoViT's shape, whose hidden width is not a multiple of the other."""
    changes = {"depth": 1, "num_classes": 7, "act_layer": "gelu_tanh"}
    peer = timm.create_model("vit_so400m_patch14_siglip_224", img_size=28, **changes)
    config = replace(vitrail.catalog()["sovit_400m_14"].config, depth=1, image=(28, 28), classes=7)
    assert difference(peer, config, "timm", (28, 28)) <= 1e-6


def test_siglip():
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
    }
    config = transformers.SiglipVisionConfig(**sizes, image_size=32, patch_size=8)
    peer = transformers.SiglipVisionModel(config)
    peer.classifier = nn.Linear(48, 7)  # it has none
    ours = replace(SMALL, pool="map", image=(32, 32))
    logits = lambda y: peer.classifier(y.pooler_output)  # noqa: E731
    assert difference(peer, ours, "siglip", (32, 32), logits) <= 1e-6


def test_transformers():
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
    }
    config = transformers.ViTConfig(
        **sizes,
        image_size=(32, 48),
        patch_size=8,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        num_labels=7,
    )
    peer = transformers.ViTForImageClassification(config)
    assert difference(peer, SMALL, "transformers", (32, 48), lambda y: y.logits) <= 1e-6
