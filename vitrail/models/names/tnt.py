"""The names that TNT's authors, in timm's form, give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.layers.patches import class_row


def _timm(config: Any) -> list:
    return [
        ("cls_token", "token[+]"),
        ("patch_pos", ("token[+2]", "position"), class_row),
        ("pixel_pos", "pixels.position"),
        ("pixel_embed.", "pixels."),
        ("norm1_proj.", "join.norm."),
        ("proj.", "join.proj."),
        ("norm2_proj.", "join_norm."),
        (".norm_in.", ".inner.norm1."),
        (".attn_in.", ".inner.mixer."),
        (".norm_mlp_in.", ".inner.norm2."),
        (".mlp_in.", ".inner.ffn."),
        (".norm1_proj.", ".join.norm."),
        ("blocks.{i}.proj.", "blocks.{i}.join.proj."),
        (".norm_out.", ".norm1."),
        (".attn_out.", ".mixer."),
        (".norm_mlp.", ".norm2."),
        (".mlp.", ".ffn."),
    ]


TABLES: dict[str, Callable[[Any], list]] = {"timm": _timm}
