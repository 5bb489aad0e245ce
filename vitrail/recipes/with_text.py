"""Which network of two towers a ViT becomes where sentences are asked for, and its fields."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from vitrail.errors import ConfigError
from vitrail.models import family_of, lit, vit
from vitrail.models.parts.text_tower import Text
from vitrail.models.trunk.backbone import input_kind

# Sentences of few words need less than pictures do.
DEEPEST, WIDEST, HEAD = 6, 512, 64


def with_text(config: Any) -> Any:
    """Return the Config itself where it is one of two towers, else the ViT beside a text tower.

    That is as wide as the image tower, at most 512, and half as deep, at most 6; its vocabulary is
    settled by the sentences. Raises ConfigError for other backbones.
    """
    if isinstance(config, lit.Config):
        return config
    if not isinstance(config, vit.Config):
        raise ConfigError(
            f"model {family_of(config)} has no text tower beside it: take a ViT, as "
            "model=vit_ti16, or model=vit_s16"
        )
    width = min(WIDEST, -(-config.dim // HEAD) * HEAD)
    depth = max(1, min(DEEPEST, config.depth // 2))
    text = Text(1, 16, width, depth, width // HEAD, 4 * width)
    return lit.Config(replace(config, classes=0, pre_logits=0), text)


def path_of(config: Any, path: str) -> str:
    """Return where a field lies that `model.FIELD` names: in the image tower where the network of
    two towers has none of this name itself, of inputs where one of three has none."""
    if path.partition(".")[0] in {one.name for one in fields(config)}:
        return path
    inner = {"pairs": "tower.", "triples": "inputs."}.get(input_kind(config), "")
    return f"{inner}{path}"
