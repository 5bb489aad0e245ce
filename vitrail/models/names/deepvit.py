"""Name tables of DeepViT: its authors' code, and a port with LayerNorms."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitrail.layers.patches import class_row


def authors(config: Any) -> list:
    """Return the rows of the authors' names."""
    return [
        ("cls_token", "embed.token[+]"),
        ("pos_embed", ("embed.token[+2]", "embed.position"), class_row),
        ("patch_embed.conv1.", "embed.proj.0.conv."),
        ("patch_embed.bn1.", "embed.proj.0.norm."),
        ("patch_embed.conv2.", "embed.proj.2.conv."),
        ("patch_embed.bn2.", "embed.proj.2.norm."),
        ("patch_embed.proj.", "embed.proj.4." if config.inner else "embed.proj."),
        (".attn.reatten_matrix.weight", ".mixer.mix.theta", lambda v: v.flatten(1)),
        (".attn.reatten_matrix.bias", ".mixer.mix.norm.running_mean[+]", torch.neg),
        (".attn.var_norm.running_mean", ".mixer.mix.norm.running_mean[+]"),
        (".attn.var_norm.", ".mixer.mix.norm."),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
    ]


def port(config: Any) -> list:
    """Return the rows of lucidrains/vit-pytorch; those with `.fn.` are of its first releases."""
    mixer, ffn = "blocks.{i}.mixer.", "blocks.{i}.ffn."
    stem = ("norm1", "linear", "norm2") if config.patch_norm else ("proj",)
    return [
        ("cls_token", "embed.token[+]"),
        ("pos_embedding", ("embed.token[+2]", "embed.position"), class_row),
        *[
            (f"to_patch_embedding.{n}.", f"embed.proj.{part}.")
            for n, part in enumerate(stem, 1)
            if config.patch_norm
        ],
        ("to_patch_embedding.1.weight", "embed.proj.weight", partial(_kernel, config=config)),
        ("to_patch_embedding.1.", "embed.proj."),
        ("transformer.layers.{i}.0.fn.norm.", "blocks.{i}.norm1."),
        ("transformer.layers.{i}.1.fn.norm.", "blocks.{i}.norm2."),
        ("transformer.layers.{i}.1.fn.fn.net.0.", f"{ffn}fc1."),
        ("transformer.layers.{i}.1.fn.fn.net.3.", f"{ffn}fc2."),
        ("transformer.layers.{i}.0.fn.fn.", "transformer.layers.{i}.0."),
        ("transformer.layers.{i}.0.norm.", "blocks.{i}.norm1."),
        ("transformer.layers.{i}.0.reattn_weights", f"{mixer}mix.theta", lambda v: v.mT),
        ("transformer.layers.{i}.0.reattn_norm.1.", f"{mixer}mix.norm."),
        ("transformer.layers.{i}.0.to_qkv.", f"{mixer}qkv."),
        ("transformer.layers.{i}.0.to_out.0.", f"{mixer}proj."),
        ("transformer.layers.{i}.1.net.0.", "blocks.{i}.norm2."),
        ("transformer.layers.{i}.1.net.1.", f"{ffn}fc1."),
        ("transformer.layers.{i}.1.net.4.", f"{ffn}fc2."),
        ("mlp_head.0.", "norm."),
        ("mlp_head.1.", "head."),
    ]


def _kernel(weight: Tensor, config: Any) -> Tensor:
    """Turn a linear layer of patches, their pixels row by row, into the kernel of a convolution."""
    return weight.unflatten(1, (config.patch, config.patch, -1)).permute(0, 3, 1, 2)


TABLES = {"zhoudaquan/dvit_repo": authors, "lucidrains/vit-pytorch": port}
