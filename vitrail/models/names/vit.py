"""Name tables of ViT: the dialects in which its weights are published.

Flax names come in two numberings and with or without a MAP head; timm, transformers and
big_vision's weights in timm's names differ in where the class token's position is. SigLIP's
image tower is a ViT without a head for classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vitrail.layers.patches import class_row
from vitrail.models.names import huggingface

_BLOCK = [("attn_pool.latent", "pool.probe"), ("attn_pool.mlp.", "pool.ffn.")]
_BLOCK += [("attn_pool.", "pool."), (".attn.", ".mixer."), (".mlp.", ".ffn.")]

# The ResNet of the hybrids, in Flax; entries of its GroupNorms may have axes of size one.
_RESNET = [
    ("conv_root/", "embed.trunk.conv."),
    ("gn_root/", "embed.trunk.norm.", Tensor.flatten),
    ("block{s}/unit{u}/", "embed.trunk.stages.{s-1}.{u-1}."),
    (".conv{n}/", ".conv{n}."),
    (".gn{n}/", ".norm{n}.", Tensor.flatten),
    (".conv_proj/", ".shortcut.conv."),
    (".gn_proj/", ".shortcut.norm.", Tensor.flatten),
]


# Which axes of a block and its surroundings share a width, also in other transformers like ViT.
BLOCK_WIDTHS = [
    ("blocks.{i}.norm{n}.{leaf}", "dim"),
    ("blocks.{i}.mixer.qkv.{leaf}", "q:inner.{i} + inner.{i} + inner.{i}, dim"),
    ("blocks.{i}.mixer.proj.weight", "dim, inner.{i}"),
    ("blocks.{i}.mixer.proj.bias", "dim"),
    ("blocks.{i}.ffn.fc1.{leaf}", "hidden.{i}, dim"),
    ("blocks.{i}.ffn.fc2.weight", "dim, hidden.{i}"),
    ("blocks.{i}.ffn.fc2.bias", "dim"),
    ("norm.{leaf}", "dim"),
]
STEM_WIDTHS = [
    ("embed.proj.{leaf}", "dim"),
    ("embed.position", "*, *, dim"),
    ("embed.token", "*, *, dim"),
]


def widths(config: Any) -> list[tuple[str, str]]:
    """Return which axes of a ViT's tensors share a width; a pool that attends is a block."""
    last = config.depth
    return [
        *STEM_WIDTHS,
        *BLOCK_WIDTHS,
        ("pool.probe", "*, *, dim"),
        ("pool.q.{leaf}", f"q:inner.{last}, dim"),
        ("pool.kv.{leaf}", f"inner.{last} + inner.{last}, dim"),
        ("pool.proj.weight", f"dim, inner.{last}"),
        ("pool.proj.bias", "dim"),
        ("pool.norm.{leaf}", "dim"),
        ("pool.ffn.fc1.{leaf}", f"hidden.{last}, dim"),
        ("pool.ffn.fc2.weight", f"dim, hidden.{last}"),
        ("pool.ffn.fc2.bias", "dim"),
        ("pre_logits.0.weight", "*, dim"),
        ("pre_logits.0.bias", "*"),
        ("head.weight", "*, *" if config.pre_logits else "*, dim"),
        ("head.bias", "*"),
    ]


def _timm(config: Any) -> list:
    token = config.pool == "token"
    return [
        ("cls_token", "embed.token[+]"),
        *([("pos_embed", ("embed.token[+2]", "embed.position"), class_row)] if token else []),
        ("pos_embed", "embed.position"),
        ("patch_embed.", "embed."),
        ("fc_norm.", "norm."),
        *_BLOCK,
    ]


def kernel(value: Tensor) -> Tensor:
    """Turn Flax (in, out) into torch (out, in), and (h, w, in, out) into (out, in, h, w)."""
    return value.movedim((-1, -2), (0, 1))


def into_heads(value: Tensor) -> Tensor:
    """Turn Flax (C, heads, d) or (heads, d) into (heads d, C) or (heads d)."""
    return value.flatten(-2).mT if value.ndim == 3 else value.flatten()


def _npz(config: Any) -> list:
    """Return rows of Flax names of both numberings: LayerNorm_2 and MlpBlock_3, or LayerNorm_1 and
    _0.

    A position table inside of `Transformer` has a row for the class token if there is one;
    big_vision's, outside of it, has none.
    """
    token = config.pool == "token"
    inside = "Transformer/encoderblock_{i}/"
    attention = inside + "MultiHeadDotProductAttention_{k}/"
    probe = "MAPHead_0/MultiHeadDotProductAttention_{k}/"
    joined = [
        (f"{attention}{name}/{leaf}", f"blocks.{{i}}.mixer.qkv.{ours}[{part}/3]", into_heads)
        for part, name in enumerate(("query", "key", "value"))
        for leaf, ours in (("kernel", "weight"), ("bias", "bias"))
    ]
    return [
        # Training states of big_vision hold more than weights.
        ("opt/target/", ""),
        ("opt/", None),
        ("chrono/", None),
        ("params/", ""),
        # Files from the time of ViT-G have the MAP head's parts at the root.
        *[
            (part, f"MAPHead_0/{part}")
            for part in ("probe", "MultiHeadDotProductAttention_", "LayerNorm_", "MlpBlock_")
        ],
        # Scan-trained files stack all blocks along a first axis.
        (
            "Transformer/encoderblock/",
            tuple(f"Transformer/encoderblock_{i}/" for i in range(config.depth)),
            lambda v: v.unbind(0),
        ),
        ("cls", "embed.token[+]"),
        ("pos_embedding", "embed.position"),
        ("Transformer/posembed_input/", "Transformer/"),
        ("Transformer/pos_embedding", ("embed.token[+2]", "embed.position"), class_row)
        if token
        else ("Transformer/pos_embedding", "embed.position"),
        *_RESNET,
        ("embedding/", "embed.proj."),
        *joined,
        (f"{attention}out/kernel", "blocks.{i}.mixer.proj.weight", lambda v: v.flatten(0, 1).mT),
        (f"{attention}out/bias", "blocks.{i}.mixer.proj.bias"),
        (f"{inside}LayerNorm_0/", "blocks.{i}.norm1."),
        (f"{inside}LayerNorm_{{k}}/", "blocks.{i}.norm2."),
        (f"{inside}MlpBlock_{{k}}/Dense_0/", "blocks.{i}.ffn.fc1."),
        (f"{inside}MlpBlock_{{k}}/Dense_1/", "blocks.{i}.ffn.fc2."),
        ("Transformer/encoder_norm/", "norm."),
        ("pre_logits/", "pre_logits.0."),
        ("head/", "head."),
        ("MAPHead_0/probe", "pool.probe"),
        *[
            (f"{probe}{name}/{leaf}", f"pool.{target}.{ours}{part}", into_heads)
            for name, target, part in (
                ("query", "q", ""),
                ("key", "kv", "[0/2]"),
                ("value", "kv", "[1/2]"),
            )
            for leaf, ours in (("kernel", "weight"), ("bias", "bias"))
        ],
        (f"{probe}out/kernel", "pool.proj.weight", lambda v: v.flatten(0, 1).mT),
        (f"{probe}out/bias", "pool.proj.bias"),
        ("MAPHead_0/LayerNorm_{k}/", "pool.norm."),
        ("MAPHead_0/MlpBlock_{k}/Dense_0/", "pool.ffn.fc1."),
        ("MAPHead_0/MlpBlock_{k}/Dense_1/", "pool.ffn.fc2."),
        (".kernel", ".weight", kernel),
        (".scale", ".weight"),
    ]


_TRANSFORMERS = [
    ("vit.", ""),
    ("embeddings.cls_token", "embed.token[+]"),
    ("embeddings.position_embeddings", ("embed.token[+2]", "embed.position"), class_row),
    ("embeddings.patch_embeddings.projection.", "embed.proj."),
    ("encoder.layer.", "layers."),
    ("layers.{i}.", "blocks.{i}."),
    *huggingface.block("attention"),
    ("pooler.dense.", "pre_logits.0."),
    ("classifier.", "head."),
]


def _probe(value: Tensor) -> tuple[Tensor, Tensor]:
    """Split rows [q | k | v] of a joined projection into those of q and of [k | v]."""
    dim = value.shape[0] // 3
    return value[:dim], value[dim:]


# SigLIP's image tower in transformers: it has no head, so a file must bring a `classifier`.
_SIGLIP = [
    ("vision_model.", ""),
    ("text_model.", None),
    ("logit_", None),
    ("embeddings.patch_embedding.", "embed.proj."),
    ("embeddings.position_embedding.weight", "embed.position", lambda v: v[None]),
    ("encoder.layers.{i}.", "blocks.{i}."),
    *[
        (f".self_attn.{name}_proj.{leaf}", f".mixer.qkv.{leaf}[{part}/3]")
        for part, name in enumerate("qkv")
        for leaf in ("weight", "bias")
    ],
    (".self_attn.out_proj.", ".mixer.proj."),
    (".layer_norm{n}.", ".norm{n}."),
    ("post_layernorm.", "norm."),
    ("head.", "pool."),
    ("pool.attention.in_proj_weight", ("pool.q.weight", "pool.kv.weight"), _probe),
    ("pool.attention.in_proj_bias", ("pool.q.bias", "pool.kv.bias"), _probe),
    ("pool.attention.out_proj.", "pool.proj."),
    ("pool.layernorm.", "pool.norm."),
    (".mlp.", ".ffn."),
    ("classifier.", "head."),
]
# big_vision in timm's names: the position table has no row for the class token.
_BIG_VISION = [
    ("cls_token", "embed.token"),
    ("pos_embed", "embed.position"),
    ("patch_embed.", "embed."),
    *_BLOCK,
]
TABLES: dict[str, list | Callable[[Any], list]] = {
    "google-research/vision_transformer": _timm,
    "google-research/big_vision": _BIG_VISION,
    "npz": _npz,
    "timm": _timm,
    "transformers": _TRANSFORMERS,
    "siglip": _SIGLIP,
}
