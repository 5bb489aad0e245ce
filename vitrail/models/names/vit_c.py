"""The names that pycls, the authors' code, and torchvision give to ViT-C's parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitrail.layers.patches import class_row


def _tokens_first(table: Tensor) -> Tensor:
    """Turn a table (N, 1, C), as the authors' later code has it, into (1,
    N, C), as the earlier has it.
    """
    return table.transpose(0, 1) if table.shape[1] == 1 else table


def _positions(table: Tensor) -> tuple[Tensor, Tensor]:
    return class_row(_tokens_first(table))


def _pycls(config: Any) -> list:
    token = config.pool == "token"
    return [
        ("class_token", "embed.token[+]"),
        ("pos_embedding", ("embed.token[+2]", "embed.position"), _positions)
        if token
        else ("pos_embedding", "embed.position", _tokens_first),
        ("stem.cstem{i}_conv.", "embed.convs.{i}.conv."),
        ("stem.cstem{i}_bn.", "embed.convs.{i}.norm."),
        ("stem.cstem_last_conv.", "embed.proj."),
        ("stem.patchify.", "embed.proj."),
        ("encoder.block_{i}.", "blocks.{i}."),
        ("encoder.ln.", "norm."),
        ("head.head_fc.", "head."),
        (".self_attention.block.in_proj_", ".mixer.qkv."),
        (".self_attention.block.out_proj.", ".mixer.proj."),
        (".self_attention.attn_proj.", ".mixer.qkv."),  # names of the branch with the configs
        (".self_attention.out_proj.", ".mixer.proj."),
        (".mlp_block.linear_1.", ".ffn.fc1."),
        (".mlp_block.linear_2.", ".ffn.fc2."),
        (".ln_1.", ".norm1."),
        (".ln_2.", ".norm2."),
    ]


_TORCHVISION = [
    ("class_token", "embed.token[+]"),
    ("encoder.pos_embedding", ("embed.token[+2]", "embed.position"), class_row),
    ("conv_proj.conv_bn_relu_{i}.0.", "embed.convs.{i}.conv."),
    ("conv_proj.conv_bn_relu_{i}.1.", "embed.convs.{i}.norm."),
    ("conv_proj.conv_last.", "embed.proj."),
    ("conv_proj.", "embed.proj."),
    ("encoder.layers.encoder_layer_{i}.", "blocks.{i}."),
    ("encoder.ln.", "norm."),
    ("heads.head.", "head."),
    (".self_attention.in_proj_", ".mixer.qkv."),
    (".self_attention.out_proj.", ".mixer.proj."),
    (".mlp.0.", ".ffn.fc1."),
    (".mlp.3.", ".ffn.fc2."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
]

TABLES = {"facebookresearch/pycls": _pycls, "torchvision": _TORCHVISION}
