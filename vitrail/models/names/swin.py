"""The names that Swin's authors, timm, torchvision and transformers give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.models.names import huggingface

_BLOCK = [
    (".attn_mask", None),
    (".relative_position_index", None),
    (".relative_position_bias_table", ".bias.table"),
    (".attn.", ".mixer."),
    (".mlp.", ".ffn."),
    (".ffn.0.", ".ffn.fc1."),
    (".ffn.3.", ".ffn.fc2."),
]

_MICROSOFT = [
    ("absolute_pos_embed", "stem.position"),
    ("patch_embed.", "stem."),
    ("layers.{i}.downsample.", "stages.{i+1}.down."),
    ("layers.", "stages."),
    ("head.fc.", "head."),
    *_BLOCK,
]


def _torchvision(config: Any) -> list:
    return [
        ("features.0.0.", "stem.proj."),
        ("features.0.2.", "stem.norm."),
        *[(f"features.{2 * i + 1}.", f"stages.{i}.blocks.") for i in range(len(config.depths))],
        *[(f"features.{2 * i}.", f"stages.{i}.down.") for i in range(1, len(config.depths))],
        *_BLOCK,
    ]


_TRANSFORMERS = [
    ("swin.", ""),
    ("embeddings.position_embeddings", "stem.position"),
    ("embeddings.patch_embeddings.projection.", "stem.proj."),
    ("embeddings.", "stem."),
    ("encoder.layers.{i}.downsample.", "stages.{i+1}.down."),
    ("encoder.layers.", "stages."),
    *huggingface.block("self"),
    (".attention.relative_position_bias.", ".mixer."),
    (".attention.self.", ".mixer."),
    ("classifier.", "head."),
    *_BLOCK,
]

TABLES: dict[str, list | Callable[[Any], list]] = {
    "microsoft/Swin-Transformer": _MICROSOFT,
    "timm": [("layers.{i}.downsample.", "stages.{i}.down."), *_MICROSOFT],
    "torchvision": _torchvision,
    "transformers": _TRANSFORMERS,
}

# Which axes of a Swin's tensors share a width. Its embedding, which doubles from stage to stage,
# is not cut: one number says it for all of them.
_WIDTHS = [
    ("{part}.proj.{leaf}", "*"),
    ("{part}.norm.{leaf}", "*"),
    ("{part}.position", "*"),
    ("stages.{s}.down.{part}.{leaf}", "*"),
    ("stages.{s}.blocks.{i}.norm{n}.{leaf}", "*"),
    (
        "stages.{s}.blocks.{i}.mixer.qkv.{leaf}",
        "q:inner.{s}.{i} + inner.{s}.{i} + inner.{s}.{i}, *",
    ),
    ("stages.{s}.blocks.{i}.mixer.bias.table", "*, heads.{s}.{i}"),
    ("stages.{s}.blocks.{i}.mixer.proj.weight", "*, inner.{s}.{i}"),
    ("stages.{s}.blocks.{i}.mixer.proj.bias", "*"),
    ("stages.{s}.blocks.{i}.ffn.fc1.{leaf}", "hidden.{s}.{i}, *"),
    ("stages.{s}.blocks.{i}.ffn.fc2.weight", "*, hidden.{s}.{i}"),
    ("stages.{s}.blocks.{i}.ffn.fc2.bias", "*"),
    ("norm.{leaf}", "*"),
    ("head.{leaf}", "*"),
]


def widths(config: Any) -> list[tuple[str, str]]:
    """Return which axes of a Swin's tensors share a width."""
    return _WIDTHS
