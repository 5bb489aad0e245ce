"""The names that ViTAS's authors give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.layers.patches import class_row

TENSORS = [
    (".patch_embed.", "."),
    (".attn.", ".mixer."),
    (".mlp.", ".ffn."),
    ("net.backbone_Norm_Norm_0.0.", "norm."),
    ("net.backbone_FC_FC_0.0.module.0.", "head."),
]


def _authors(config: Any) -> list:
    """Return the authors' rows: their blocks are numbered by slots."""
    return [
        ("net.backbone_init_stem_Patch_init_0.0.", "embed."),
        ("embed.cls_token", "embed.token[+]"),
        ("embed.pos_embed", ("embed.token[+2]", "embed.position"), class_row),
        *[
            (f"net.backbone_Block_Block_{slot}.0.", f"blocks.{n}.")
            for n, slot in enumerate(config.filled)
        ],
        *TENSORS,
    ]


TABLES: dict[str, Callable[[Any], list]] = {"xiusu/ViTAS": _authors}
