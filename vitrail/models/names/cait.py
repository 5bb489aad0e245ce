"""The names that CaiT's authors, and timm, give to its parameters."""

from __future__ import annotations

from typing import Any

from vitrail.models.names import vit

_AUTHORS = [
    ("cls_token", "pool.token"),
    ("pos_embed", "embed.position"),
    ("patch_embed.", "embed."),
    ("blocks_token_only.", "pool.blocks."),
    ("norm.", "pool.norm."),
    (".attn.proj_l.bias", None),
    (".attn.proj_l.weight", ".mixer.before"),
    (".attn.proj_w.", ".mixer.after."),
    *[
        (f".attn.{name}.{leaf}", f".mixer.kv.{leaf}[{part}/2]")
        for part, name in enumerate("kv")
        for leaf in ("weight", "bias")
    ],
    (".attn.", ".mixer."),
    (".mlp.", ".ffn."),
    (".gamma_1", ".scale1.gamma"),
    (".gamma_2", ".scale2.gamma"),
]

TABLES = {"facebookresearch/deit": _AUTHORS, "timm": _AUTHORS}


def widths(config: Any) -> list[tuple[str, str]]:
    """Return which axes of a CaiT's tensors share a width; reading blocks come after the others."""
    rows = [
        ("embed.proj.{leaf}", "dim"),
        ("embed.position", "*, *, dim"),
        ("blocks.{i}.mixer.before", "heads.{i}, heads.{i}"),
        ("blocks.{i}.mixer.after.{leaf}", "heads.{i}, heads.{i}"),
        ("blocks.{i}.scale{n}.gamma", "dim"),
        *vit.BLOCK_WIDTHS,
        ("pool.token", "*, *, dim"),
        ("pool.norm.{leaf}", "dim"),
        ("head.weight", "*, dim"),
        ("head.bias", "*"),
    ]
    for number in range(config.reading):
        block, at = f"pool.blocks.{number}.", config.depth + number
        rows += [
            (block + "norm{n}.{leaf}", "dim"),
            (block + "mixer.q.{leaf}", f"q:inner.{at}, dim"),
            (block + "mixer.kv.{leaf}", f"inner.{at} + inner.{at}, dim"),
            (block + "mixer.proj.weight", f"dim, inner.{at}"),
            (block + "mixer.proj.bias", "dim"),
            (block + "ffn.fc1.{leaf}", f"hidden.{at}, dim"),
            (block + "ffn.fc2.weight", f"dim, hidden.{at}"),
            (block + "ffn.fc2.bias", "dim"),
            (block + "scale{n}.gamma", "dim"),
        ]
    return rows
