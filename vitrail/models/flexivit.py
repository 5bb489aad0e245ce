"""FlexiViT: one set of ViT weights for all patch sizes; kernel and positions follow the patch.

Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR 2023, arXiv 2212.08013.

The kernel that is learned has `kernel` pixels a side and the table of positions `table` places,
whatever `patch` says. On the way the kernel is PI-resized and the table resampled by a triangle,
antialiased where it shrinks. The paper's ten sizes, for images of 240 pixels, are 48, 40, 30, 24,
20, 16, 15, 12, 10 and 8: `create("flexivit_s", patch=48)`. A training that draws one for every
step is the method `flexivit`; without it this trains at the size of `patch` alone.

Published weights have kernels of 32 pixels and 7 x 7 positions (s, b, l). timm's copies of them
(small, base, large) were resized once, to 16 pixels and 15 x 15 positions, by bicubic filters and
with the exact GELU, so that they are worse than the originals elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d
from vitrail.layers.flexible import Flexible
from vitrail.layers.patches import project_some
from vitrail.layers.position import triangle_grid
from vitrail.models import vit
from vitrail.models.names import flexivit as names
from vitrail.models.trunk.backbone import HALF, Small, Variant, check_image
from vitrail.models.trunk.positions import Table
from vitrail.models.vit import PatchEmbed, ViT


@dataclass(frozen=True)
class Config(vit.Config):
    """Sizes of a ViT that runs at `patch`; `kernel` is the side of the learned kernel, `table` the
    rows and columns of the learned positions."""

    kernel: int = 32
    table: tuple[int, int] = (7, 7)
    image: tuple[int, int] = (240, 240)


_S = Config(dim=384, heads=6, hidden=1536)
_B = Config(dim=768, heads=12, hidden=3072)
_L = Config(dim=1024, depth=24, heads=16, hidden=4096)
_TIMM = {"kernel": 16, "table": (15, 15)}
# Parameters of s, b and l, and all multiply-adds, are counted; the others' parameters and the
# accuracies at patch 16, after 1200 epochs, are those of timm's table.
VARIANTS = {
    f"flexivit_{name}": Variant(
        replace(base, **changes),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/flexivit_{name}.1200ep_in1k"} if changes else {},
    )
    for name, base, changes, params_m, flops_g, top1 in [
        ("s", _S, {}, 22.88, 5.34, 82.58),
        ("b", _B, {}, 88.22, 20.3, 84.68),
        ("l", _L, {}, 306.5, 71.0, 85.65),
        ("small", _S, _TIMM, 22.06, 5.34, 82.58),
        ("base", _B, _TIMM, 86.59, 20.3, 84.68),
        ("large", _L, _TIMM, 304.36, 71.0, 85.65),
    ]
}

SPACE = Small(
    Config(dim=96, depth=4, heads=3, hidden=192, kernel=8, patch=4),
    {"patch": (4, 7, 8, 16)},
)

TAKES = HALF  # unless a variant's reference says otherwise
NAMES = names.TABLES
# The table is of the same places for all images.
POSITIONS = (Table("embed.position", lambda c: c.table, triangle_grid),)


class Embed(Flexible, PatchEmbed):
    """Patches of any size, each a token, plus positions and class token: (B, channels, H, W) to
    (B, token + H W / patch^2, C). `patch` may be chosen at any time."""

    proj: Conv2d

    def __init__(self, config: Config) -> None:
        sides = (config.table[0] * config.kernel, config.table[1] * config.kernel)
        self.own = config.kernel
        super().__init__(replace(config, patch=config.kernel, image=sides))
        self.config, self.own = config, config.patch
        self.grid(*config.image)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return patches down and across an image of h x w pixels; ValueError unless they fit."""
        if h % self.patch or w % self.patch:
            raise ValueError(
                f"image is {h}x{w}; flexivit needs multiples of its patch {self.patch}: choose "
                "another patch or resize"
            )
        return h // self.patch, w // self.patch

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n d"]:
        check_image(image, self.config, "flexivit")
        grid = self.grid(*image.shape[-2:])
        return self._placed(self.cut(image), grid)

    def cut(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Cut the image into patches, a map before positions."""
        if self.patch == self.config.kernel:
            return self.proj(image)
        return F.conv2d(image, self._resized(), self.proj.bias, self.patch)

    def some(
        self, image: Float[Tensor, "b channels h w"], places: Int[Tensor, "b k"]
    ) -> Float[Tensor, "b n d"]:
        """Return the prefix and the patches `places`, numbered row by row; no others are cut."""
        check_image(image, self.config, "flexivit")
        table = self._positions(self.grid(*image.shape[-2:]))
        x = project_some(image, places, self._resized(), self.proj.bias)
        return self.behind(self._at(x, F.embedding(places, table[0])))

    def _resized(self) -> Tensor:
        return self._kernel(self.proj.weight, (self.patch, self.patch))

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if self.config.position == "sincos":
            return super()._positions(grid)
        return triangle_grid(self.position, self.config.table, grid)

    def _sources(self) -> Iterable[Tensor]:
        return (self.proj.weight,)


class FlexiViT(ViT):
    """A ViT whose embedding takes any patch size."""

    embedding_of: Callable[[Any], nn.Module] = Embed


MODEL = FlexiViT
