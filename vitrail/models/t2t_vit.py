"""T2T-ViT: tokens made of overlapping tokens, step by step, before a narrow ViT.

Yuan et al., "Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet", ICCV
2021, arXiv 2101.11986. Each soft split unfolds a map into overlapping patches, and a small
transformer mixes them before the next. Its attention is Performer's (Choromanski et al., ICLR
2021, arXiv 2009.14794) with 32 positive random features, so that thousands of tokens are cheap.

The skip around a Performer is its values, since the width changes. Random features and
sinusoids are fixed but part of checkpoints: they are parameters without gradients. LayerNorm's
eps is 1e-5, q, k, v have no bias in the backbone. Positions are 1-D sinusoids over all tokens;
at another image size they are resampled bicubically. `local` lets another paper put its own
feed-forward in place of both MLPs and their norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.position import bicubic_grid, sine_1d
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models.names import t2t_vit as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table

Grid = tuple[int, int]
Local = Callable[[int, int], nn.Module]  # dim, hidden to a feed-forward of (tokens, grid)


@dataclass(frozen=True)
class Config:
    """Sizes of a T2T-ViT; `splits` are kernel, stride and padding of each soft split, `inner` the
    width of the transformers between them, `features` their random features."""

    dim: int = 256
    depth: int = 7
    heads: int = 4
    hidden: int = 512
    splits: tuple[tuple[int, int, int], ...] = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
    inner: int = 64
    features: int = 32
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


# Parameters without the sinusoids, which are not trained.
VARIANTS = {
    name: Variant(Config(dim, depth, heads, hidden), params_m=params_m, top1=top1)
    for name, dim, depth, heads, hidden, params_m, top1 in [
        ("t2t_vit_7", 256, 7, 4, 512, 4.3, 71.7),
        ("t2t_vit_10", 256, 10, 4, 512, 5.9, 75.2),
        ("t2t_vit_12", 256, 12, 4, 512, 6.9, 76.5),
        ("t2t_vit_14", 384, 14, 6, 1152, 21.5, 81.5),
        ("t2t_vit_19", 448, 19, 7, 1344, 39.2, 81.9),
        ("t2t_vit_24", 512, 24, 8, 1536, 64.1, 82.3),
    ]
}

SPACE = Small(
    Config(drop_path=0.0, inner=32),
    {
        ("dim", "heads", "hidden"): ((64, 2, 128), (96, 3, 192), (128, 4, 256)),
        "depth": (3, 5),
        "splits": (
            ((3, 2, 1), (3, 2, 1)),
            ((7, 4, 2), (3, 2, 1)),
            ((7, 4, 2), (3, 2, 1), (3, 2, 1)),
        ),
    },
)

NAMES = names.TABLES
POSITIONS = (Table("embed.position", lambda c: grid(c, *c.image), bicubic_grid),)


def grid(config: Config, h: int, w: int) -> Grid:
    """Return the tokens down and across of an image of h x w pixels, begun ones included."""
    for kernel, stride, padding in config.splits:
        h, w = ((side + 2 * padding - kernel) // stride + 1 for side in (h, w))
        if min(h, w) < 1:
            raise ValueError(f"splits {config.splits} leave nothing of the image: enlarge it")
    return h, w


def stride(config: Config) -> int:
    """Return the pixels of the image per token, down and across."""
    return math.prod(step for _, step, _ in config.splits)


class Performer(nn.Module):
    """Attention by positive random features, then an MLP: (B, N, C) to (B, N, inner).

    Softmax of q k' is the mean product of exp(w q - |q|^2 / 2) and the same of k over random
    w, so that keys and values meet first: linear in N.
    """

    def __init__(self, dim: int, inner: int, features: int, local: Local | None) -> None:
        super().__init__()
        self.norm1, self.kqv = nn.LayerNorm(dim), Linear(dim, 3 * inner)
        self.proj = Linear(inner, inner)
        self.w = nn.Parameter(torch.empty(features, inner), requires_grad=False)
        # `orthogonal_` reads no values of a meta tensor, so that models build there.
        nn.init.orthogonal_(self.w, gain=features**0.5)
        self.norm2 = nn.LayerNorm(inner) if local is None else None
        self.ffn = Mlp(inner, inner) if local is None else local(inner, inner)

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n i"]:
        k, q, v = self.kqv(self.norm1(x)).chunk(3, -1)
        # The authors add 1e-8 to the sum of shares. ONNX exporters drop an addend so near to
        # zero: so both sides of the fraction are multiplied by 1e8.
        k, q = self._features(k), self._features(q) * 1e8
        shares = q @ k.sum(1).unsqueeze(-1) + 1
        y = v + self.proj(q @ (k.mT @ v) / shares)
        return self.ffn(y, grid) if self.norm2 is None else y + self.ffn(self.norm2(y))

    def _features(self, x: Tensor) -> Tensor:
        return (x @ self.w.mT - x.square().sum(-1, keepdim=True) / 2).exp() * len(self.w) ** -0.5


class TokensToToken(nn.Module):
    """Soft splits with transformers between, class token and positions: an image to (B, 1 +
    h w, C)."""

    def __init__(self, config: Config, local: Local | None = None) -> None:
        super().__init__()
        c = self.config = config
        widths = [c.channels, *[c.inner] * (len(c.splits) - 1)]
        wide = [dim * kernel**2 for dim, (kernel, _, _) in zip(widths, c.splits, strict=True)]
        self.mixers = nn.ModuleList(Performer(dim, c.inner, c.features, local) for dim in wide[:-1])
        self.project = Linear(wide[-1], c.dim)
        count = math.prod(self.grid(*c.image))
        self.token = nn.Parameter(torch.empty(1, 1, c.dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        table = sine_1d(count + 1, c.dim)[:, 1:]
        self.position = nn.Parameter(table.clone(), requires_grad=False)

    def grid(self, h: int, w: int) -> Grid:
        """Return the tokens down and across of an image of h x w pixels."""
        return grid(self.config, h, w)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        check_image(image, self.config, "t2t_vit")
        x, size = image, self.grid(*image.shape[-2:])
        for n, (kernel, step, padding) in enumerate(self.config.splits):
            x = F.pad(x, (padding,) * 4).unfold(2, kernel, step).unfold(3, kernel, step)
            size = (x.shape[2], x.shape[3])
            x = x.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
            if n < len(self.mixers):
                x = self.mixers[n](x, size).mT.unflatten(2, size)
        made = self.grid(*self.config.image)
        x = self.project(x) + bicubic_grid(self.position, made, size)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


class T2TViT(Isotropic):
    """Tokens to token, pre-norm transformer blocks, class token, linear head."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        c = config
        blocks = [
            Block(
                c.dim,
                Attention(c.dim, c.heads, qkv_bias=False),
                Mlp(c.dim, c.hidden),
                drop_path=rate,
            )
            for rate in rising(c.drop_path, c.depth)
        ]
        super().__init__(
            config,
            embed=TokensToToken(config),
            blocks=blocks,
            norm=nn.LayerNorm(c.dim),
            pool=FirstToken(),
            head=linear_head(c.dim, c.classes),
            levels=[Level(stride(c), c.dim)],
        )
        trunc_normal_linear(self)


MODEL = T2TViT
