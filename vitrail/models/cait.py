"""CaiT: deep transformers by LayerScale, and a class token that only reads at the end.

Touvron et al., "Going deeper with Image Transformers", ICCV 2021, arXiv 2103.17239. Patches
pass their blocks alone, under talking-heads attention (Shazeer et al., 2020, arXiv 2003.02436),
each branch scaled by a learned vector that starts near 0. Then two class-attention blocks let a
class token read the patches, which stay as they are.

Stochastic depth is the same in all patch blocks, and none in the class part. The class token
has no position. The head mixture before the softmax has a bias in checkpoints that is the same
for all keys of a query, so that the softmax takes it away: it is dropped. `weights` of a
talking-heads block gives the softmax, before the mixture that follows it. Positions move to
other image sizes bicubically.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention, ClassAttention
from vitrail.layers.conv import Conv2d
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.patches import PatchTokens
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, LayerScale, absorbed
from vitrail.layers.tokens import ClassReader
from vitrail.models.names import cait as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table, patches
from vitrail.models.trunk.sizes import PerBlock, Widths, widths


@dataclass(frozen=True)
class Config:
    """Sizes of a CaiT: `depth` blocks of patches, `reading` of the class token; `scale` is where
    LayerScale starts. `heads`, `inner` (channels of all heads, 0 for `dim`) and `hidden` are one
    number or one a block, those of the class token last."""

    dim: int = 192
    depth: int = 24
    heads: PerBlock = 4
    hidden: PerBlock = 768
    reading: int = 2
    scale: float = 1e-5
    patch: int = 16
    inner: PerBlock = 0
    drop_path: float = 0.05
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


def _size(dim: int, depth: int, scale: float, drop_path: float) -> Config:
    sizes = {"dim": dim, "heads": dim // 48, "hidden": 4 * dim}
    return Config(depth=depth, scale=scale, drop_path=drop_path, **sizes)  # pyright: ignore[reportArgumentType]


_SIZES = {
    "xxs24": _size(192, 24, 1e-5, 0.05),
    "xxs36": _size(192, 36, 1e-5, 0.1),
    "xs24": _size(288, 24, 1e-5, 0.05),
    "xs36": _size(288, 36, 1e-6, 0.1),
    "s24": _size(384, 24, 1e-5, 0.1),
    "s36": _size(384, 36, 1e-6, 0.2),
    "s48": _size(384, 48, 1e-6, 0.3),
    "m24": _size(768, 24, 1e-5, 0.2),
    "m36": _size(768, 36, 1e-6, 0.3),
    "m48": _size(768, 48, 1e-6, 0.4),
}
# parameters in 10^6, multiply-adds in 10^9, accuracy; whether the authors released weights,
# which were distilled
_ROWS = [
    ("xxs24", 224, 12.0, 2.5, 77.6, True),
    ("xxs36", 224, 17.3, 3.8, 79.1, True),
    ("xs24", 224, 26.6, 5.4, 81.8, False),
    ("xs36", 224, 38.6, 8.1, 82.6, False),
    ("s24", 224, 46.9, 9.4, 82.7, True),
    ("s36", 224, 68.2, 13.9, 83.3, False),
    ("s48", 224, 89.5, 18.6, 83.5, False),
    ("m24", 224, 185.9, 36.0, 83.4, False),
    ("m36", 224, 270.9, 53.7, 83.8, False),
    ("xxs24", 384, 12.0, 9.5, 80.4, True),
    ("xxs36", 384, 17.3, 14.2, 81.8, True),
    ("xs24", 384, 26.6, 19.3, 83.8, True),
    ("xs36", 384, 38.6, 28.8, 84.3, False),
    ("s24", 384, 46.9, 32.2, 84.3, True),
    ("s36", 384, 68.2, 48.0, 85.0, True),
    ("s48", 384, 89.5, 63.8, 85.1, False),
    ("m24", 384, 185.9, 116.1, 84.5, False),
    ("m36", 384, 270.9, 173.3, 84.9, True),
    ("m48", 448, 356.0, 329.6, 86.5, True),
]
VARIANTS = {
    f"cait_{size}_{side}": Variant(
        replace(_SIZES[size], image=(side, side)),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/cait_{size}_{side}.fb_dist_in1k"} if released else {},
    )
    for size, side, params_m, flops_g, top1, released in _ROWS
}

SPACE = Small(
    Config(drop_path=0.0, reading=1, scale=0.1),
    {
        ("dim", "heads", "hidden"): ((64, 2, 128), (96, 3, 192), (144, 3, 288), (192, 4, 384)),
        "depth": (3, 6),
        "patch": (4, 7, 8, 16),
    },
)

NAMES = names.TABLES
WIDTHS = names.widths
POSITIONS = (Table("embed.position", patches, bicubic_grid),)


class Embed(PatchTokens):
    """Image (B, channels, H, W) to patches with positions (B, h w, C); at another image size
    than the config's the positions are resampled on the way."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.proj = Conv2d(c.channels, c.dim, c.patch, c.patch)
        self.position = nn.Parameter(torch.empty(1, math.prod(self.grid(*c.image)), c.dim))
        nn.init.trunc_normal_(self.position, std=0.02)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return patches down and across an image of h x w pixels; ValueError unless they fit."""
        if h % self.config.patch or w % self.config.patch:
            raise ValueError(
                f"image is {h}x{w}; cait needs multiples of its patch {self.config.patch}: "
                "choose another patch or resize"
            )
        return h // self.config.patch, w // self.config.patch

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "cait")
        return image

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 n c"]:
        return bicubic_grid(self.position, self.grid(*self.config.image), grid)


class TalkingHeads(Attention):
    """Attention whose logits, and whose maps, are mixed over the heads: (B, N, C) to the same."""

    def __init__(self, dim: int, heads: int, inner: int | None = None) -> None:
        super().__init__(dim, heads, inner=inner)
        self.before = nn.Parameter(torch.empty(heads, heads))
        self.after = nn.Linear(heads, heads)
        nn.init.trunc_normal_(self.before, std=0.02)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        maps, v = self._maps(x)
        mixed = (self.after.weight @ maps.flatten(1)).view(maps.shape)
        # The mixture's bias, the same for all keys, is cheaper on the sum of the values.
        out = mixed @ v + self.after.bias[:, None, None, None] * v.sum(2, keepdim=True)
        return self.proj(out.permute(1, 2, 0, 3).flatten(2))

    def weights(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n n"]:
        """Return the softmax of mixed logits, before the maps are mixed; rows are queries."""
        return self._maps(x)[0].transpose(0, 1)

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # Heads come first, so that mixing them is one matrix product over whole batches.
        q, k, v = (part.transpose(0, 1) for part in self._heads(x))
        logits = q @ k.mT
        mixed = (self.before * q.shape[-1] ** -0.5) @ logits.flatten(1)
        return mixed.view(logits.shape).softmax(-1), v


class ClassBlock(nn.Module):
    """The first token reads, then its own MLP: (B, 1 + N, C) to the same, patches unchanged."""

    def __init__(self, dim: int, size: Widths, scale: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mixer = ClassAttention(dim, size.heads, inner=size.inner)
        self.ffn = Mlp(dim, size.hidden)
        self.scale1, self.scale2 = LayerScale(dim, scale), LayerScale(dim, scale)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return torch.cat([self.read(x), x[:, 1:]], 1)

    def read(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 c"]:
        """Return the token alone."""
        token = x[:, :1] + self.scale1(self.mixer(self.norm1(x)))
        return token + self.scale2(self.ffn(self.norm2(token)))

    def deployed(self) -> ClassBlock:
        """Move LayerScale into the last linear layer of its branch."""
        self.scale1 = absorbed(self.scale1, self.mixer)
        self.scale2 = absorbed(self.scale2, self.ffn)
        return self


class CaiT(Isotropic):
    """Patches, talking-heads blocks with LayerScale, a class token that reads, linear head."""

    undecayed = ("embed.position", "pool.token")

    def __init__(self, config: Config) -> None:
        c = config
        usual = c.dim, 4 * c.dim
        sizes = widths(c.heads, c.inner, c.hidden, c.depth + c.reading, usual)
        blocks = [
            Block(
                c.dim,
                TalkingHeads(c.dim, size.heads, size.inner),
                Mlp(c.dim, size.hidden),
                norm=partial(nn.LayerNorm, eps=1e-6),
                scale=c.scale,
                drop_path=c.drop_path,
            )
            for size in sizes[: c.depth]
        ]
        reading = [ClassBlock(c.dim, size, c.scale) for size in sizes[c.depth :]]
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=nn.Identity(),
            pool=ClassReader(c.dim, reading),
            head=linear_head(c.dim, c.classes),
            levels=[Level(c.patch, c.dim)],
        )
        trunc_normal_linear(self)


MODEL = CaiT
