"""The names that T2T-ViT's authors give to its parameters."""

from __future__ import annotations

from vitrail.layers.patches import class_row

_AUTHORS = [
    ("cls_token", "embed.token[+]"),
    ("pos_embed", ("embed.token[+2]", "embed.position"), class_row),
    ("tokens_to_token.attention{i}.", "embed.mixers.{i-1}."),
    ("tokens_to_token.project.", "embed.project."),
    (".attn.", ".mixer."),
    (".mlp.", ".ffn."),
]

TABLES = {"yitu-opensource/T2T-ViT": _AUTHORS}
