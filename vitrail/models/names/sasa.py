"""The names of public code for stand-alone self-attention."""

from __future__ import annotations

from typing import Any

from vitrail.models.names import resnet
from vitrail.models.parts.attention_resnet import matrix


def _names(config: Any) -> list:
    """Return rows of the layers; the networks of public code do not follow the paper."""
    return [
        *resnet.TABLES["torchvision"](config),
        ("stem.weight_query.weight", "stem.query", matrix),
        ("stem.weight_key.weight", "stem.key", matrix),
        (
            "stem.weight_value.{m}.weight",
            f"stem.values[{{m}}/{config.mixtures}]",
            lambda v: v.flatten(1)[None],
        ),
        ("stem.emb_row", "stem.rows"),
        ("stem.emb_col", "stem.columns"),
        ("stem.emb_mix", "stem.mixes"),
        *[
            (f".weight_{name}.weight", f".qkv.weight[{n}/3]", matrix)
            for n, name in enumerate(("query", "key", "value"))
        ],
        (".relative_x", ".columns", lambda v: v.flatten(1).mT),
        (".relative_y", ".rows", lambda v: v.flatten(1).mT),
    ]


TABLES = {"MerHS/SASA-pytorch": _names}
