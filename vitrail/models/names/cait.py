"""The names that CaiT's authors, and timm, give to its parameters."""

from __future__ import annotations

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
