"""The names that RangeViT's authors give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vitrail.checkpoint import Row
from vitrail.layers.patches import class_row


def _flat(kernel: Tensor) -> Tensor:
    """Turn a 1x1 kernel (K, C, 1, 1), or a matrix, into a matrix (K, C)."""
    return kernel.flatten(1)


def _authors(config: Any) -> list[Row]:
    up = "decoder.up_conv_block"
    return [
        ("encoder.cls_token", "embed.token[+2]"),
        ("encoder.pos_embed", ("embed.token[+2]", "embed.position"), class_row),
        ("encoder.patch_embed.conv_block.{i}.", "stem.blocks.{i}."),
        ("encoder.patch_embed.proj_block.1.", "stem.proj."),
        ("encoder.patch_embed.proj.", "stem.proj."),
        ("encoder.", ""),
        (f"{up}.conv_upsample.0.weight", "decoder.up.weight", _flat),
        (f"{up}.conv_upsample.0.", "decoder.up."),
        (f"{up}.conv1.0.", "decoder.join.conv."),
        (f"{up}.conv1.2.", "decoder.join.norm."),
        (f"{up}.conv_output.0.", "decoder.out.conv."),
        (f"{up}.conv_output.2.", "decoder.out.norm."),
        ("decoder.head.weight", "head.weight", _flat),
        ("decoder.head.", "head."),
        ("kpclassifier.kpconv.", "refiner.kpconv."),
        ("kpclassifier.bn.", "refiner.norm."),
        ("kpclassifier.head.weight", "head.weight", _flat),
        ("kpclassifier.head.", "head."),
        (".conv1.", ".shortcut.conv."),
        (".conv{n}.", ".convs.{n-2}.conv."),
        (".bn{n}.", ".convs.{n-1}.norm."),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
    ]


TABLES: dict[str, Callable[[Any], list[Row]]] = {"valeoai/rangevit": _authors}
