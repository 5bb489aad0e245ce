"""What a ViT of images gives a network of range images to begin with.

As RangeViT's authors do it (Ando et al., CVPR 2023, arXiv 2301.10222).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.config import kind_of
from vitrail.layers.position import bilinear_grid
from vitrail.models.trunk.sliding import resized


def from_images(config: Any, state: Mapping[str, Tensor], side: int) -> dict[str, Tensor]:
    """Return what a RangeViT takes from a ViT of images, by its own names.

    `state` is of a ViT or DeiT in our names, whose positions are of `side` x `side` patches: its
    blocks, last norm, class token, and positions, resized bilinearly to the grid of the crop. Where
    there is no stem of convolutions the patches' kernel is resized bilinearly, its channels are
    repeated and scaled by 3 to the number of channels, so that sums stay. Raises ValueError where
    sizes differ.
    """
    own = {k: v for k, v in state.items() if k.startswith(("blocks.", "norm."))}
    own["embed.token"] = state["embed.token"][:, :1]
    own["embed.position"] = bilinear_grid(state["embed.position"], (side, side), config.grid)
    if kind_of(type(config.stem)) == "patch_stem":
        kernel = state["embed.proj.weight"]
        given, wanted = kernel.shape[1], config.channels
        many = kernel.repeat(1, -(-wanted // given), 1, 1)[:, :wanted] * (given / wanted)
        own["stem.proj.weight"] = resized(many, config.patch)
        own["stem.proj.bias"] = state["embed.proj.bias"]
    if own["embed.token"].shape[-1] != config.dim:
        raise ValueError(
            f"the ViT is {own['embed.token'].shape[-1]} wide and the model {config.dim}: give "
            f"dim={own['embed.token'].shape[-1]}, with its heads and depth"
        )
    return own
