"""The names that Segmenter's authors and mmsegmentation give to its parameters.

The authors' encoder has a head for 1000 classes that nothing reads. mmsegmentation's ViT has
torch's own attention, whose rows are packed as ours are. Both have the same tensors and compute
with other norms, so each has names for its own encoder only: a file cannot get into the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from vitrail.checkpoint import Row
from vitrail.config import kind_of
from vitrail.models.names import deit


def within(prefix: str, rows: Sequence[Row]) -> list[Row]:
    """Return rows for names that begin with `prefix`; those for any place in a name stay."""

    def put(name: Any) -> Any:
        if isinstance(name, tuple):
            return tuple(map(put, name))
        return None if name is None else f"{prefix}{name}"

    return [row if row[0].startswith(".") else (put(row[0]), put(row[1]), *row[2:]) for row in rows]


def _host(config: Any) -> list[Row]:
    return within("backbone.", deit.TABLES["timm"](config.host))


def _classes(value: Tensor) -> Tensor:
    """Turn class embeddings (1, K, C) into (K, C)."""
    return value.squeeze(0)


def _turned(value: Tensor) -> Tensor:
    """Turn a matrix that multiplies from the right into one of a linear layer."""
    return value.mT


def _authors(config: Any) -> list[Row]:
    if kind_of(type(config.host)) != "encoder":
        return []
    return [
        ("encoder.head.", None),
        ("encoder.head_dist.", None),
        ("encoder.", "backbone."),
        ("decoder.head.", "head."),
        ("decoder.cls_emb", "head.classes", _classes),
        ("decoder.proj_dec.", "head.proj."),
        ("decoder.proj_patch", "head.of_patches.weight", _turned),
        ("decoder.proj_classes", "head.of_classes.weight", _turned),
        ("decoder.decoder_norm.", "head.norm."),
        ("decoder.mask_norm.", "head.scale."),
        ("decoder.blocks.", "head.blocks."),
        *_host(config),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
    ]


def _block(theirs: str, ours: str) -> list[Row]:
    return [
        (f"{theirs}.ln{{n}}.", f"{ours}.norm{{n}}."),
        (f"{theirs}.attn.attn.in_proj_", f"{ours}.mixer.qkv."),
        (f"{theirs}.attn.attn.out_proj.", f"{ours}.mixer.proj."),
        (f"{theirs}.ffn.layers.0.0.", f"{ours}.ffn.fc1."),
        (f"{theirs}.ffn.layers.1.", f"{ours}.ffn.fc2."),
    ]


def _mmseg(config: Any) -> list[Row]:
    if kind_of(type(config.host)) != "deit":
        return []
    linear = kind_of(type(config.decoder)) == "linear_decoder"
    scores: list[Row] = [
        ("decode_head.conv_seg.weight", "head.weight", lambda kernel: kernel.flatten(1)),
        ("decode_head.conv_seg.", "head."),
    ]
    return [
        *(scores if linear else [("decode_head.conv_seg.", None)]),
        ("decode_head.cls_emb", "head.classes", _classes),
        ("decode_head.dec_proj.", "head.proj."),
        ("decode_head.patch_proj.", "head.of_patches."),
        ("decode_head.classes_proj.", "head.of_classes."),
        ("decode_head.decoder_norm.", "head.norm."),
        ("decode_head.mask_norm.", "head.scale."),
        *_block("decode_head.layers.{i}", "head.blocks.{i}"),
        *_block("backbone.layers.{i}", "backbone.blocks.{i}"),
        ("backbone.ln1.", "backbone.norm."),
        ("backbone.patch_embed.projection.", "backbone.patch_embed.proj."),
        *_host(config),
    ]


TABLES: dict[str, Callable[[Any], list[Row]]] = {
    "rstrudel/segmenter": _authors,
    "open-mmlab/mmsegmentation": _mmseg,
}
