"""Patches as tokens behind a class token, with learned positions: the embedding of DeiT's kin."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d
from vitrail.layers.position import bicubic_grid


def class_row(table: Tensor) -> tuple[Tensor, Tensor]:
    """A position table as what its first row adds to the class token, and the patches' table."""
    return table[:, :1], table[:, 1:]


class ClassPatches(nn.Module):
    """Patches of p x p pixels as tokens: (B, channels, H, W) to (B, 1 + H W / p^2, C).

    The class token has no row in the position table, since a row that is added to it is part
    of it: `class_row` splits checkpoints that have one. At another size than `image`, for
    which the table is made, it is resampled bicubically on the way. Of several `tokens` the
    class token is the first.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        patch: int,
        *,
        image: tuple[int, int],
        tokens: int = 1,
        std: float = 0.0,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.made_for = self.grid(*image)
        self.proj = Conv2d(channels, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, tokens, dim))
        self.position = nn.Parameter(torch.zeros(1, self.made_for[0] * self.made_for[1], dim))
        for table in (self.token, self.position):
            nn.init.trunc_normal_(table, std=std) if std else nn.init.zeros_(table)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Patches down and across of an image of h x w pixels; ValueError unless they fit."""
        if h % self.patch or w % self.patch:
            raise ValueError(
                f"image is {h}x{w}; patches of {self.patch} pixels need multiples of "
                f"{self.patch}: choose another patch or resize"
            )
        return h // self.patch, w // self.patch

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        grid = self.grid(*image.shape[-2:])
        x = self.proj(image).flatten(2).mT + bicubic_grid(self.position, self.made_for, grid)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
