"""The names that NAT's authors, and transformers, give to its parameters."""

from __future__ import annotations

from vitrail.models.names import huggingface

_DOWN = [
    ("stages.{i}.downsample.reduction.", "stages.{i+1}.down.0."),
    ("stages.{i}.downsample.norm.", "stages.{i+1}.down.1."),
]

BLOCK = [
    (".gamma1", ".scale1.gamma"),
    (".gamma2", ".scale2.gamma"),
    (".attn.rpb", ".mixer.bias.table"),
    (".attn.", ".mixer."),
    (".mlp.", ".ffn."),
]

TABLES = {
    "SHI-Labs/Neighborhood-Attention-Transformer": [
        ("patch_embed.", "stem."),
        ("levels.", "stages."),
        *_DOWN,
        *BLOCK,
    ],
    "transformers": [
        ("dinat.", ""),
        ("nat.", ""),
        ("embeddings.patch_embeddings.projection.", "stem.proj."),
        ("embeddings.", "stem."),
        ("encoder.levels.", "stages."),
        *_DOWN,
        (".layers.", ".blocks."),
        (".layer_scale_parameters", (".scale1.gamma", ".scale2.gamma"), lambda v: (v[0], v[1])),
        (".attention.self.rpb", ".mixer.bias.table"),
        *huggingface.block("self"),
        ("classifier.", "head."),
    ],
}
