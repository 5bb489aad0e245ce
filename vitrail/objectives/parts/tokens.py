"""How objectives read a backbone: what its head would see, its patches, and what its class token
reads.

A backbone of one resolution whose embedding cuts patches can be read with some of them hidden.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.layers.attention import Attention
from vitrail.layers.patches import PatchTokens
from vitrail.layers.protocols import Attends
from vitrail.models.trunk.backbone import Isotropic


class Seen(NamedTuple):
    """What a backbone makes of images: (B, width), patches (B, N, C), attention (B, N) or None."""

    pooled: Tensor
    patches: Tensor
    attention: Tensor | None = None


def read(
    model: Any,
    images: Tensor,
    *,
    mask: Tensor | None = None,
    token: Tensor | None = None,
    attention: bool = False,
) -> Seen:
    """Read images (B, C, H, W), patches of `mask` (B, N) replaced by `token` (C,) before positions.

    With `attention` what the class token pays each patch in the last block, the mean over heads:
    only its row is computed.
    """
    hides = mask is not None and token is not None
    x = model.embed.hidden(images, mask, token) if hides else model.embed(images)
    *first, last = model.blocks
    for block in first:
        x = model.blocks.run(block, x)
    row = class_row(last, x, _patches(model, images)) if attention else None
    tokens = model.norm(model.blocks.run(last, x))
    return Seen(model.pool(tokens), tokens[:, tokens.shape[1] - _patches(model, images) :], row)


def class_row(block: Any, x: Tensor, patches: int) -> Tensor:
    """Return what the first token pays each of the last `patches` in a block, (B, patches)."""
    mixer, normed = block.mixer, block.norm1(x)
    row_only = type(mixer) is Attention
    weights = mixer.first(normed) if row_only else mixer.weights(normed)[:, :, :1]
    return weights[:, :, 0, weights.shape[-1] - patches :].mean(1)


def require_patches(model: Any, method: str) -> None:
    """Raise ConfigError unless patches of a model can be hidden from it."""
    if isinstance(model, Isotropic) and isinstance(model.embed, PatchTokens):
        return
    raise ConfigError(
        f"{method} hides patches, and {_named(model)} has none that can be hidden: take a model of "
        "one resolution such as deit_tiny or vit_ti16, or --method dino"
    )


def require_class_token(model: Any, method: str) -> None:
    """Raise ConfigError unless a class token reads all patches in a model's last block."""
    require_patches(model, method)
    config = model.config
    mixer = getattr(model.blocks[-1], "mixer", None)
    if prefix(model) == 0 or not isinstance(mixer, Attends):
        raise ConfigError(
            f"{method} needs a class token whose attention says what to hide, and {_named(model)} "
            f"(pool {getattr(config, 'pool', 'of its own')}) has none: take deit_tiny or vit_ti16, "
            "or --method ibot"
        )


@torch.no_grad()
def prefix(model: Any) -> int:
    """Return how many tokens stand before a model's patches."""
    config = model.config
    where = next(model.parameters()).device
    image = torch.zeros(1, config.channels, *config.image, device=where)
    image = image.to(next(model.parameters()).dtype)
    tokens = model.embed(image)
    return tokens.shape[1] - _patches(model, image)


def _patches(model: Any, images: Tensor) -> int:
    h, w = model.embed.grid(*images.shape[-2:])
    return h * w


def grid(model: Any, images: Tensor) -> tuple[int, int]:
    """Return the patches down and across of images."""
    return model.embed.grid(*images.shape[-2:])


def _named(model: Any) -> str:
    return type(model).__name__
