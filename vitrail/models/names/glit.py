"""The names that GLiT's authors give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.layers.patches import class_row


def _authors(config: Any) -> list:
    """Return the authors' rows: each of their blocks is a list of one candidate; a mixed one keeps
    both parts as one.
    """
    mixed = [i for i, local in enumerate(config.local) if 0 < local < config.heads]
    return [
        ("cls_token", "embed.token[+]"),
        ("pos_embed", ("embed.token[+2]", "embed.position"), class_row),
        ("patch_embed.", "embed."),
        ("blocks.{i}.0.", "blocks.{i}."),
        (".net.1.weight", ".net.enter.weight", lambda v: v.squeeze(-1)),
        (".net.1.", ".net.enter."),
        (".net.3.conv.weight", ".net.conv.weight", lambda v: v.unsqueeze(2)),
        (".net.3.", ".net."),
        (".net.4.", ".net.norm."),
        (".net.6.weight", ".net.leave.weight", lambda v: v.squeeze(-1)),
        (".net.6.", ".net.leave."),
        *[(f"blocks.{i}.attn.net.", f"blocks.{i}.mixer.local.") for i in mixed],
        *[(f"blocks.{i}.attn.", f"blocks.{i}.mixer.attention.") for i in mixed],
        (".attn.net.", ".mixer."),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
    ]


TABLES: dict[str, Callable[[Any], list]] = {"bychen515/GLiT": _authors}
