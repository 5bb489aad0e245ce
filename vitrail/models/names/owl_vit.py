"""The names that OWL-ViT's authors and transformers give to its parameters.

CLIP's temperature and the projection of the class token are in files, and nothing reads them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitrail.layers.patches import class_row
from vitrail.models.names.vit import into_heads, kernel


def _rows(value: Tensor) -> Tensor:
    return value[None]


def _table(value: Tensor) -> tuple[Tensor, Tensor]:
    return class_row(value[None])


def _token(value: Tensor) -> Tensor:
    return value.view(1, 1, -1)


_POSITIONS = ("tower.embed.token[+2]", "tower.embed.position")


def _transformers(config: Any) -> list:
    joined = [
        (f".self_attn.{name}_proj.{leaf}", f".mixer.qkv.{leaf}[{part}/3]")
        for part, name in enumerate("qkv")
        for leaf in ("weight", "bias")
    ]
    return [
        ("owlvit.", ""),
        ("owlv2.", ""),
        ("logit_scale", None),
        ("visual_projection.", None),
        ("box_bias", None),
        (".position_ids", None),
        ("text_projection.", "text.head."),
        ("text_model.embeddings.token_embedding.", "text.embed."),
        ("text_model.embeddings.position_embedding.weight", "text.position", _rows),
        ("text_model.final_layer_norm.", "text.norm."),
        ("text_model.encoder.layers.{i}.", "text.blocks.{i}."),
        ("vision_model.embeddings.class_embedding", "tower.embed.token[+2]", _token),
        ("vision_model.embeddings.position_embedding.weight", _POSITIONS, _table),
        ("vision_model.embeddings.patch_embedding.", "tower.embed.proj."),
        ("vision_model.pre_layernorm.", "tower.embed.norm."),
        ("vision_model.post_layernorm.", "tower.norm."),
        ("vision_model.encoder.layers.{i}.", "tower.blocks.{i}."),
        *joined,
        (".self_attn.out_proj.", ".mixer.proj."),
        (".layer_norm{n}.", ".norm{n}."),
        (".mlp.", ".ffn."),
        ("layer_norm.", "merge."),
        ("class_head.dense0.", "class_head.embed."),
        ("class_head.logit_shift.", "class_head.shift."),
        ("class_head.logit_scale.", "class_head.scale."),
        ("box_head.dense{i}.", "box_head.layers.{i}."),
        ("objectness_head.dense{i}.", "objectness_head.layers.{i}."),
    ]


def _scenic(config: Any) -> list:
    """Return rows of Flax paths. Old files count LayerNorms of a block
    from 1 and write resblocks.0.
    """
    joined = [
        (f".attn/{name}/{leaf}", f".mixer.qkv.{ours}[{part}/3]", into_heads)
        for part, name in enumerate(("query", "key", "value"))
        for leaf, ours in (("kernel", "weight"), ("bias", "bias"))
    ]
    clip = "backbone/clip/"
    blocks = [
        (f"{clip}{theirs}/transformer/resblocks{mark}{{i}}/{part}", f"{ours}.blocks.{{i}}.{to}")
        for theirs, ours in (("visual", "tower"), ("text", "text"))
        for mark, norms in (("_", ("ln_0/", "ln_1/")), (".", ("ln_1/", "ln_2/")))
        for part, to in ((norms[0], "norm1."), (norms[1], "norm2."), ("", ""))
    ]  # fmt: skip
    return [
        ("params/", ""),
        ("backbone/clip/logit_scale", None),
        *blocks,
        *joined,
        (".attn/out/kernel", ".mixer.proj.weight", lambda v: v.flatten(0, 1).mT),
        (".attn/out/bias", ".mixer.proj.bias"),
        (".mlp/c_fc/", ".ffn.fc1."),
        (".mlp/c_proj/", ".ffn.fc2."),
        ("backbone/clip/visual/conv1/", "tower.embed.proj."),
        ("backbone/clip/visual/class_embedding", "tower.embed.token[+2]", _token),
        ("backbone/clip/visual/positional_embedding", _POSITIONS, _table),
        ("backbone/clip/visual/ln_pre/", "tower.embed.norm."),
        ("backbone/clip/visual/ln_post/", "tower.norm."),
        ("backbone/clip/visual/proj", None),
        ("backbone/clip/text/token_embedding/embedding", "text.embed.weight"),
        ("backbone/clip/text/positional_embedding", "text.position", _rows),
        ("backbone/clip/text/ln_final/", "text.norm."),
        ("backbone/clip/text/text_projection/", "text.head."),
        ("backbone/merged_class_token/", "merge."),
        (".scale", ".weight"),
        ("class_head/Dense_0/", "class_head.embed."),
        ("class_head/logit_shift/", "class_head.shift."),
        ("class_head/logit_scale/", "class_head.scale."),
        ("obj_box_head/Dense_{i}/", "box_head.layers.{i}."),
        ("objectness_head/Dense_{i}/", "objectness_head.layers.{i}."),
        (".kernel", ".weight", kernel),
    ]


TABLES = {"google-research/scenic": _scenic, "transformers": _transformers}
