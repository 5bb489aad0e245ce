"""The names that XCiT's authors, and timm, give to its parameters."""

from __future__ import annotations

from torch import Tensor


def _split(value: Tensor) -> tuple[Tensor, Tensor]:
    """A packed projection as that of the query, and those of keys and values."""
    c = value.shape[0] // 3
    return value[:c], value[c:]


def _names(position: str) -> list:
    inside = "pool.blocks.{i}.mixer."
    packed = "pool.blocks.{i}.attn.qkv."
    return [
        ("cls_token", "pool.token"),
        ("patch_embed.proj.{i}.0.", "embed.convs.{i}.conv."),
        ("patch_embed.proj.{i}.1.", "embed.convs.{i}.norm."),
        (f"{position}.token_projection.weight", "embed.position.weight", lambda v: v.flatten(1)),
        (f"{position}.token_projection.bias", "embed.position.bias"),
        *[  # convolutions stand at every second place of the authors' stem
            (f"embed.convs.{2 * i}.", f"embed.convs.{i}.") for i in range(1, 4)
        ],
        ("cls_attn_blocks.", "pool.blocks."),
        ("norm.", "pool.norm."),
        *[
            (packed + leaf, (f"{inside}q.{leaf}", f"{inside}kv.{leaf}"), _split)
            for leaf in ("weight", "bias")
        ],
        *[
            (f"pool.blocks.{{i}}.attn.{name}.{leaf}", f"{inside}kv.{leaf}[{part}/2]")
            for part, name in enumerate("kv")
            for leaf in ("weight", "bias")
        ],
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
        (".local_mp.bn.", ".local.norm."),
        (".local_mp.", ".local."),
        *[(f".gamma{n}", f".scale{n}.gamma") for n in (1, 2, 3)],
    ]


TABLES = {"facebookresearch/xcit": _names("pos_embeder"), "timm": _names("pos_embed")}
