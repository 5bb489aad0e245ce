"""The names that XCiT's authors, and timm, give to its parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def _split(value: Tensor) -> tuple[Tensor, Tensor]:
    """Split a packed projection into that of the query, and those of keys and values."""
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


def widths(config: Any) -> list[tuple[str, str]]:
    """Return which axes of an XCiT's tensors share a width; reading blocks come after the others.

    The embedding, which the stem doubles up to, is not cut.
    """
    block = "blocks.{i}."
    rows = [
        (block + "mixer.temperature", "heads.{i}"),
        # Queries and keys are normed, and have a temperature in place of a scale.
        (block + "mixer.qkv.{leaf}", "inner.{i} + inner.{i} + inner.{i}, *"),
        (block + "mixer.proj.weight", "*, inner.{i}"),
        (block + "ffn.fc1.{leaf}", "hidden.{i}, *"),
        (block + "ffn.fc2.weight", "*, hidden.{i}"),
    ]
    for number in range(config.reading):
        block, at = f"pool.blocks.{number}.", config.depth + number
        rows += [
            (block + "mixer.q.{leaf}", f"q:inner.{at}, *"),
            (block + "mixer.kv.{leaf}", f"inner.{at} + inner.{at}, *"),
            (block + "mixer.proj.weight", f"*, inner.{at}"),
            (block + "ffn.fc1.{leaf}", f"hidden.{at}, *"),
            (block + "ffn.fc2.weight", f"*, hidden.{at}"),
        ]
    still = ["embed.convs.{i}.{part}.{leaf}", "embed.position.{leaf}", "pool.token", "head.{leaf}"]
    still += ["pool.norm.{leaf}", "blocks.{i}.local.{part}.{leaf}"]
    for block in ("blocks.{i}.", "pool.blocks.{i}."):
        leaves = "norm{n}.{leaf}", "mixer.proj.bias", "ffn.fc2.bias", "scale{n}.gamma"
        still += [block + leaf for leaf in leaves]
    return [*rows, *((pattern, "*") for pattern in still)]
