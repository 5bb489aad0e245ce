"""Patches as tokens, all or some of them, and the embedding of DeiT's kin behind class tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d
from vitrail.layers.position import bicubic_grid


def class_row(table: Tensor) -> tuple[Tensor, Tensor]:
    """Split a position table into what its first row adds to the class
    token, and the patches' table.
    """
    return table[:, :1], table[:, 1:]


class PatchTokens(nn.Module):
    """Patches as tokens with positions: (B, channels, H, W) to (B, prefix + n, C).

    Who derives from it has `proj` and `grid`, and says what `proj` sees of an image, where patches
    are, and what comes before them.
    """

    proj: nn.Module

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return patches down and across an image of h x w pixels; ValueError unless they fit."""
        raise NotImplementedError

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Return the map that `proj` cuts into patches: the image itself, unless said otherwise."""
        return image

    def behind(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n2 c"]:
        """Return the tokens behind the prefix, where there is one."""
        return x

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        return self._placed(self.proj(self.seen(image)), self.grid(*image.shape[-2:]))

    def some(
        self, image: Float[Tensor, "b channels h w"], places: Int[Tensor, "b k"]
    ) -> Float[Tensor, "b n c"]:
        """Return the prefix and the patches `places`, numbered row by row.

        An embedding that computes its tokens in another way than this one computes all of them.
        """
        grid = self.grid(*image.shape[-2:])
        if type(self).forward is not PatchTokens.forward:
            tokens = self(image)
            prefix = tokens.shape[1] - grid[0] * grid[1]
            return torch.cat([tokens[:, :prefix], _taken(tokens[:, prefix:], places)], 1)
        x, table = some_patches(self.proj, self.seen(image), places), self._positions(grid)
        return self.behind(x if table is None else self._at(x, F.embedding(places, table[0])))

    def hidden(
        self, image: Float[Tensor, "b channels h w"], mask: Tensor, token: Float[Tensor, "c"]
    ) -> Float[Tensor, "b n c"]:
        """Return all tokens, patches of `mask` (B, h w) replaced by `token` before positions."""
        grid = self.grid(*image.shape[-2:])
        patches = self.proj(self.seen(image))
        where = mask.view(-1, 1, *grid)
        return self._placed(torch.where(where, token.view(1, -1, 1, 1), patches), grid)

    def _placed(
        self, patches: Float[Tensor, "b c h w"], grid: tuple[int, int]
    ) -> Float[Tensor, "b n c"]:
        """Return a map of patches as tokens with positions, behind the prefix."""
        x, table = patches.flatten(2).mT, self._positions(grid)
        return self.behind(x if table is None else self._at(x, table))

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 n c"] | None:
        """Return what is added to each patch of such a grid, None for nothing."""
        raise NotImplementedError

    def _at(self, x: Float[Tensor, "b n c"], positions: Tensor) -> Float[Tensor, "b n c"]:
        return x + positions


def _taken(tokens: Float[Tensor, "b n c"], places: Int[Tensor, "b k"]) -> Float[Tensor, "b k c"]:
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))


def some_patches(
    proj: nn.Module, image: Float[Tensor, "b channels h w"], places: Int[Tensor, "b k"]
) -> Float[Tensor, "b k c"]:
    """Return some patches of an image, projected by themselves where `proj` allows it.

    Where outputs share pixels, as behind several convolutions, all are computed and some taken.
    """
    if isinstance(proj, nn.Conv2d) and _cuts(proj):
        return project_some(image, places, proj.weight, proj.bias)
    return _taken(proj(image).flatten(2).mT, places)


def project_some(
    image: Float[Tensor, "b channels h w"],
    places: Int[Tensor, "b k"],
    weight: Float[Tensor, "c channels p q"],
    bias: Float[Tensor, "c"] | None = None,
) -> Float[Tensor, "b k c"]:
    """Return what a convolution whose stride is its kernel gives for some patches of an image.

    `places` numbers the patches row by row. Only the pixels of these patches are copied.
    """
    rows, columns = weight.shape[-2:]
    across = image.shape[-1] // columns
    cut = image.unflatten(3, (across, columns)).unflatten(2, (-1, rows)).permute(0, 2, 4, 1, 3, 5)
    batch = torch.arange(image.shape[0], device=image.device)[:, None]
    pixels = cut[batch, places // across, places % across]
    return F.linear(pixels.flatten(2), weight.flatten(1), bias)


def _cuts(conv: nn.Conv2d) -> bool:
    """Return whether each output sees a patch of its own, and the patches are all of the image."""
    plain = conv.padding == (0, 0) and conv.dilation == (1, 1) and conv.groups == 1
    return plain and conv.kernel_size == conv.stride


class ClassPatches(PatchTokens):
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
        """Return patches down and across an image of h x w pixels; ValueError unless they fit."""
        if h % self.patch or w % self.patch:
            raise ValueError(
                f"image is {h}x{w}; patches of {self.patch} pixels need multiples of "
                f"{self.patch}: choose another patch or resize"
            )
        return h // self.patch, w // self.patch

    def behind(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n2 c"]:
        """Return the tokens behind the class tokens."""
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 n c"]:
        return bicubic_grid(self.position, self.made_for, grid)
