"""ViT: an image is a sequence of patches, read by a plain pre-norm transformer.

Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; weights of Steiner et al., "How to train
your ViT?" (AugReg), TMLR 2022, arXiv 2106.10270; the class-token-free plain ViT of Beyer et
al., 2022, arXiv 2205.01580; shapes with attention pooling of Zhai et al., "Scaling Vision
Transformers", CVPR 2022, arXiv 2106.04560, and of Alabdulmohsin et al., "Getting ViT in Shape"
(SoViT), NeurIPS 2023, arXiv 2305.13035.

GELU is the tanh form and LayerNorm's eps 1e-6, as in the authors' JAX code; timm and
transformers compute the exact GELU, which moves logits by about 1e-3. The class token has no
row in the position table: a row of a checkpoint that is added to it is folded into the token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.conv import Conv2d
from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear
from vitrail.layers.patches import PatchTokens
from vitrail.layers.position import sincos_2d, zoom_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken, Mean, ProbePool
from vitrail.models.names import vit as names
from vitrail.models.trunk.backbone import HALF, Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table
from vitrail.models.trunk.sizes import PerBlock, widths


@dataclass(frozen=True)
class Config:
    """Sizes of a ViT. `heads`, `inner` (channels of all heads, 0 for `dim`) and `hidden` are one
    number or one a block; of pool "map" one more, its own, comes last. `pool` is "token" (class
    token), "mean" or "map" (attention pooling); `position` is "learned" or "sincos"; `pre_logits`
    is the width of the tanh layer before the head, 0 for none."""

    dim: int = 192
    depth: int = 12
    heads: PerBlock = 3
    hidden: PerBlock = 768
    patch: int = 16
    pool: str = "token"
    position: str = "learned"
    pre_logits: int = 0
    inner: PerBlock = 0
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000

    @property
    def stride(self) -> int:
        """Return the pixels of the image per token, down and across."""
        return self.patch


_SIZES = {
    "ti": Config(dim=192, depth=12, heads=3, hidden=768),
    "s": Config(dim=384, depth=12, heads=6, hidden=1536),
    "b": Config(dim=768, depth=12, heads=12, hidden=3072),
    "l": Config(dim=1024, depth=24, heads=16, hidden=4096),
    "h": Config(dim=1280, depth=32, heads=16, hidden=5120),
}
# size, patch, image, parameters and multiply-adds (counted where not published), accuracy of
# AugReg's weights pre-trained on ImageNet-21k, timm's name for them
_ROWS = [
    ("ti", 16, 224, 5.72, 1.26, 75.45, "tiny"),
    ("s", 32, 224, 22.88, 1.15, 76.01, "small"),
    ("s", 16, 224, 22.05, 4.6, 81.40, "small"),
    ("b", 32, 224, 88.22, 4.4, 80.73, "base"),
    ("b", 16, 224, 86.57, 17.6, 84.53, "base"),
    ("b", 8, 224, 86.58, 78.0, 85.8, "base"),
    ("l", 32, 224, 305.5, 15.4, None, None),
    ("l", 16, 224, 304.3, 61.6, 85.86, "large"),
    ("h", 14, 224, 630.8, 167.0, None, None),
    ("ti", 16, 384, 5.79, 4.68, 78.44, "tiny"),
    ("s", 32, 384, 22.92, 3.44, 80.48, "small"),
    ("s", 16, 384, 22.20, 15.49, 83.81, "small"),
    ("b", 32, 384, 88.30, 13.04, 83.36, "base"),
    ("b", 16, 384, 86.86, 55.48, 86.01, "base"),
    ("l", 16, 384, 304.7, 191.1, 87.10, "large"),
]
VARIANTS = {
    f"vit_{size}{patch}" + ("" if image == 224 else f"_{image}"): Variant(
        replace(_SIZES[size], patch=patch, image=(image, image)),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/vit_{long}_patch{patch}_{image}.augreg_in21k_ft_in1k"}
        if long
        else {},
    )
    for size, patch, image, params_m, flops_g, top1, long in _ROWS
}

# The shapes of "Scaling Vision Transformers" and of SoViT, with attention pooling: width, depth,
# heads, hidden width, patch, and half the published operations (s/28: counted, since 0.7 is
# rounded; SoViT-150m: counted). The published parameters leave out pooling and head.
_SCALED = [
    ("scaling_vit_s28", 256, 6, 8, 1024, 28, 0.36),
    ("scaling_vit_s16", 256, 6, 8, 1024, 16, 1.1),
    ("scaling_vit_S32", 384, 12, 6, 1536, 32, 1.15),
    ("scaling_vit_Ti16", 192, 12, 3, 768, 16, 1.25),
    ("scaling_vit_B32", 768, 12, 12, 3072, 32, 4.35),
    ("scaling_vit_S16", 384, 12, 6, 1536, 16, 4.6),
    ("scaling_vit_B28", 768, 12, 12, 3072, 28, 5.65),
    ("scaling_vit_B16", 768, 12, 12, 3072, 16, 17.55),
    ("scaling_vit_L16", 1024, 24, 16, 4096, 16, 61.45),
    ("scaling_vit_g14", 1408, 40, 16, 6144, 14, 266.55),
    ("scaling_vit_G14", 1664, 48, 16, 8192, 14, 482.65),
    ("scaling_vit_e14", 1792, 56, 16, 15360, 14, 990.0),
    ("sovit_150m_14", 880, 18, 16, 2320, 14, 35.5),
    ("sovit_400m_14", 1152, 27, 16, 4304, 14, 110.5),
]
VARIANTS |= {
    name: Variant(Config(dim, depth, heads, hidden, patch, pool="map"), flops_g=flops_g)
    for name, dim, depth, heads, hidden, patch, flops_g in _SCALED
}

# The networks that pre-trained the first paper's weights on ImageNet-21k.
VARIANTS |= {
    f"vit_{size}{patch}_in21k": Variant(
        replace(_SIZES[size], patch=patch, pre_logits=_SIZES[size].dim, classes=21843)
    )
    for size, patch in [("b", 32), ("b", 16), ("l", 32), ("l", 16), ("h", 14)]
}

SPACE = Small(
    Config(dim=64, depth=4, heads=2, hidden=256, patch=4, pool="mean", position="sincos"),
    {
        ("dim", "heads", "hidden"): ((64, 2, 128), (96, 3, 192), (128, 4, 256), (192, 4, 384)),
        "depth": (3, 6),
        "patch": (4, 7, 8, 16),
    },
)

TAKES = HALF  # unless a variant's reference says otherwise
NAMES = names.TABLES
WIDTHS = names.widths
POSITIONS = (
    Table("embed.position", lambda c: tuple(-(-side // c.stride) for side in c.image), zoom_grid),
)


def _ceil(side: int, stride: int) -> int:
    return -(-side // stride)


class PatchEmbed(PatchTokens):
    """Patches of p x p pixels, each a token by one linear map, plus positions and class token.

    (B, channels, H, W) to (B, token + H W / p^2, C). At another image size than the config's
    the learned positions are resampled on the way. Maps cut into patches in place of the image
    have `channels` of their own.
    """

    def __init__(self, config: Config, channels: int | None = None) -> None:
        super().__init__()
        h, w = config.image
        channels = channels or config.channels
        self.config = config
        self.proj = Conv2d(channels, config.dim, config.patch, config.patch)
        nn.init.trunc_normal_(self.proj.weight, std=(channels * config.patch**2) ** -0.5)
        nn.init.zeros_(self.proj.bias)  # pyright: ignore[reportArgumentType]
        rows = math.prod(self.grid(h, w))
        if config.position == "learned":
            self.position = nn.Parameter(torch.randn(1, rows, config.dim) * config.dim**-0.5)
        elif config.position != "sincos":
            raise ValueError(f"position is {config.position!r}: expected learned or sincos")
        self.token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.pool == "token" else None

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return patches down and across an image of h x w pixels; ValueError unless they fit."""
        patch = self.config.patch
        if h % patch or w % patch:
            raise ValueError(
                f"image is {h}x{w}; vit needs multiples of its patch {patch}: choose another "
                "patch or resize"
            )
        return h // patch, w // patch

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        check_image(image, self.config, "vit")
        return image

    def behind(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n2 d"]:
        return x if self.token is None else torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if self.config.position == "sincos":
            return sincos_2d(grid, self.config.dim)
        return zoom_grid(self.position, self.grid(*self.config.image), grid)

    def _at(self, x: Tensor, positions: Tensor) -> Tensor:
        return x + positions.to(x)


class ViT(Isotropic):
    """Patch embedding, pre-norm transformer blocks, class token or mean, linear head."""

    undecayed = ("embed.position", "embed.token", "pool.probe")
    embedding_of: Callable[[Any], nn.Module] = PatchEmbed

    def __init__(self, config: Config) -> None:
        c, pooling = config, config.pool == "map"
        usual = c.dim, 4 * c.dim
        sizes = widths(c.heads, c.inner, c.hidden, c.depth + pooling, usual)
        own = sizes[-1]
        pools = {
            "token": FirstToken,
            "mean": Mean,
            "map": partial(ProbePool, c.dim, own.heads, own.hidden, own.inner),
        }
        if c.pool not in pools:
            raise ValueError(f"pool is {c.pool!r}: expected {', '.join(pools)}")
        norm = partial(nn.LayerNorm, eps=1e-6)
        blocks = [
            Block(
                c.dim,
                Attention(c.dim, size.heads, inner=size.inner),
                Mlp(c.dim, size.hidden, act=nn.GELU(approximate="tanh")),
                norm=norm,
                drop_path=rate,
            )
            for rate, size in zip(rising(c.drop_path, c.depth), sizes, strict=False)
        ]
        super().__init__(
            config,
            embed=self.embedding_of(config),
            blocks=blocks,
            norm=norm(config.dim),
            pool=pools[config.pool](),
            head=linear_head(config.pre_logits or config.dim, config.classes),
            levels=[Level(config.stride, config.dim)],
        )
        if config.pre_logits:
            self.pre_logits = nn.Sequential(Linear(config.dim, config.pre_logits), nn.Tanh())
            self.width = config.pre_logits
        self._init()

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        x = super().embedding(image)
        return self.pre_logits(x) if self.config.pre_logits else x

    def _init(self) -> None:
        """Draw q, k, v each by itself and the other blocks by Xavier's rule; zero the head."""
        parts = {"mixer.qkv.weight": 3, "kv.weight": 2}
        for block in [*self.blocks, self.pool]:
            for name, p in block.named_parameters():
                if p.ndim > 1:
                    for part in p.chunk(parts.get(name, 1)):
                        nn.init.xavier_uniform_(part)
                elif name.endswith("bias"):
                    nn.init.normal_(p, std=1e-6) if ".fc" in name else nn.init.zeros_(p)
        for p in self.head.parameters():
            nn.init.zeros_(p)


def cuttable(model: ViT) -> ViT:
    """Return a ViT of the same function whose positions may lose channels: sinusoids as a table."""
    if model.config.position != "sincos":
        return model
    config = replace(model.config, position="learned")
    embed = cast(PatchEmbed, model.embed)
    table = embed._positions(embed.grid(*config.image)).to(next(embed.parameters()))
    with torch.device("meta"):
        learned = ViT(config)
    state = model.state_dict() | {"embed.position": table}
    learned.load_state_dict(state, assign=True)
    return learned.train(model.training)


MODEL = ViT
