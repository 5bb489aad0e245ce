"""The names that the authors, in Flax, and timm give to the parameters of the hybrids."""

from __future__ import annotations

from typing import Any

from vitrail.models.names import vit


def _timm(config: Any) -> list:
    stem = "patch_embed.backbone." + ("stem." if config.units else "")
    return [
        (stem + "conv.", "embed.trunk.conv."),
        (stem + "norm.", "embed.trunk.norm."),
        ("patch_embed.backbone.stages.{s}.blocks.{u}.", "embed.trunk.stages.{s}.{u}."),
        (".downsample.", ".shortcut."),
        *vit.TABLES["timm"](config),  # pyright: ignore[reportCallIssue]
    ]


TABLES = {
    "google-research/vision_transformer": _timm,
    "npz": vit.TABLES["npz"],
    "timm": _timm,
}
