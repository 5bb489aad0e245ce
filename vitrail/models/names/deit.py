"""The names that DeiT's authors, timm and transformers give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from vitrail.models.names import huggingface, vit


def _first(token: Tensor) -> Tensor:
    """Turn the class token into a summand of both tokens."""
    return F.pad(token, (0, 0, 0, 1))


def _second(token: Tensor) -> Tensor:
    return F.pad(token, (0, 0, 1, 0))


def _prefix(config: Any) -> list:
    """Return rows for tokens, positions and heads, which the authors,
    timm and transformers share.
    """
    count = 2 if config.distilled else 1
    token = f"embed.token[+{count + 1}]"

    def split(table: Tensor) -> tuple[Tensor, Tensor]:
        return table[:, :count], table[:, count:]

    tokens = [
        ("cls_token", token, *([_first] if config.distilled else [])),
        ("pos_embed", (token, "embed.position"), split),
    ]
    if config.distilled:
        tokens += [
            ("dist_token", token, _second),
            ("head_dist.", "head.distilled."),
            ("head.weight", "head.main.weight"),
            ("head.bias", "head.main.bias"),
        ]
    return tokens


def _authors(config: Any) -> list:
    return [
        *_prefix(config),
        ("patch_embed.", "embed."),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
    ]


def _transformers(config: Any) -> list:
    return [
        ("deit.", ""),
        ("vit.", ""),  # the published DeiT without distillation is of its ViT class
        ("classifier.", "head."),
        ("cls_classifier.", "head."),
        ("distillation_classifier.", "head_dist."),
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.distillation_token", "dist_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        *_prefix(config),
        ("embeddings.patch_embeddings.projection.", "embed.proj."),
        ("encoder.layer.", "layers."),
        ("layers.{i}.", "blocks.{i}."),
        *huggingface.block("attention"),
    ]


def _pretrained(config: Any) -> list:
    """Return the rows for the backbones of SiT and AttMask, without what stands beside them."""
    token = f"embed.token[+{3 if config.distilled else 2}]"
    return [
        *[(part, None) for part in ("head.mlp.", "head.last_", "head_recons.")],
        *[(part, None) for part in ("rec_", "contr_", "rot_")],
        ("backbone.", ""),
        ("masked_embed", None),
        ("cls_token1", token, _first),
        ("cls_token2", token, _second),
        *_authors(config),
    ]


TABLES: dict[str, Callable[[Any], list]] = {
    "facebookresearch/deit": _authors,
    "timm": _authors,
    "transformers": _transformers,
    "gkakogeorgiou/attmask": _pretrained,
    "Sara-Ahmed/SiT": _pretrained,
}


def widths(config: Any) -> list[tuple[str, str]]:
    """Return which axes of a DeiT's tensors share a width."""
    heads = ("head.main.", "head.distilled.") if config.distilled else ("head.",)
    return [
        *vit.STEM_WIDTHS,
        *vit.BLOCK_WIDTHS,
        *((f"{head}weight", "*, dim") for head in heads),
        *((f"{head}bias", "*") for head in heads),
    ]
