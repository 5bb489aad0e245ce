"""DeiT against timm and transformers with the same random weights."""

from dataclasses import replace

from agree import difference
from support.peers import timm, transformers

from vitrail.models.deit import Config

SMALL = Config(dim=48, depth=2, heads=3, hidden=96, patch=8, image=(32, 48), classes=7)
TIMM = {
    "img_size": (32, 48),
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "mlp_ratio": 2,
    "num_classes": 7,
}


def test_timm():
    assert difference(timm.models.VisionTransformer(**TIMM), SMALL, "timm", (32, 48)) <= 1e-6


def test_timm_distilled():
    peer = timm.models.deit.VisionTransformerDistilled(**TIMM)
    assert difference(peer, replace(SMALL, distilled=True), "timm", (32, 48)) <= 1e-6


TRANSFORMERS = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": (32, 48),
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
    "num_labels": 7,
}


def test_transformers():
    """Its DeiT with one head keeps the distillation token; the paper's without is its ViT."""
    peer = transformers.ViTForImageClassification(transformers.ViTConfig(**TRANSFORMERS))
    assert difference(peer, SMALL, "transformers", (32, 48), lambda y: y.logits) <= 1e-6


def test_transformers_distilled():
    config = transformers.DeiTConfig(**TRANSFORMERS)
    peer = transformers.DeiTForImageClassificationWithTeacher(config)
    ours = replace(SMALL, distilled=True)
    assert difference(peer, ours, "transformers", (32, 48), lambda y: y.logits) <= 1e-6
