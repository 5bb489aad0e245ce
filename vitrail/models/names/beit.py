"""The names that the authors of BEiT, SimMIM and PSS, and timm, give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vitrail.layers.patches import class_row


def _class_first(table: Tensor) -> Tensor:
    """Return a bias table whose last three rows, the class token's, come first."""
    return torch.cat([table[-3:], table[:-3]])


def _authors(config: Any) -> list:
    positions = [("cls_token", "embed.token[+]")]
    if config.position == "both":
        positions = [
            ("cls_token", "embed.token[+2]"),
            ("pos_embed", ("embed.token[+2]", "embed.position"), class_row),
        ]
    return [
        *positions,
        ("patch_embed.", "embed."),
        (".attn.relative_position_index", None),
        (".attn.relative_position_bias_table", ".mixer.bias.table", _class_first),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
        (".gamma_{n}", ".scale{n}.gamma"),
        ("fc_norm.", "pool.norm."),
    ]


TABLES: dict[str, Callable[[Any], list]] = {
    "BradMcDanel/pss": _authors,
    "microsoft/unilm": _authors,
    "timm": _authors,
}
