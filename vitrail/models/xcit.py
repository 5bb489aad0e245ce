"""XCiT: attention between channels instead of tokens, so that cost is linear in the image.

El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, arXiv 2106.09681.
A block has cross-covariance attention, then a depthwise "local patch interaction", then an
MLP. A class token reads at the end, as in CaiT.

Queries and keys are normalised along the tokens, which is done here on their products: each
head has a temperature and no scale. Positions are Fourier features of the map at hand, so any
image may be given; the stem rounds up. Three quirks of the authors' class blocks matter to the
second one: its first branch adds the scaled norm of the patches to them, its second takes the
residual after the norm, and the patches are doubled. Stochastic depth is the same in all
blocks; of its published rates the authors' commands confirm only that of small_12. `weights`
of the cross-covariance attention are between channels of a head. Its products are normed late,
so that large ones overflow float16, where the authors' would not: bfloat16 is safe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import ClassAttention
from vitrail.layers.checks import head_width
from vitrail.layers.conv import Affine, Conv, ConvNorm, channels_first, channels_last
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear, frozen
from vitrail.layers.position import FourierPosition
from vitrail.layers.residual import Block, LayerScale, absorbed
from vitrail.layers.tokens import ClassReader
from vitrail.models.names import xcit as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.sizes import PerBlock, Widths, widths


@dataclass(frozen=True)
class Config:
    """Sizes of an XCiT. `strides` are those of the stem's 3x3 convolutions, whose widths double
    up to `dim`; `reading` blocks are of the class token; `scale` is where LayerScale starts;
    `tokens_norm` says that class blocks norm the patches, too. `heads`, `inner` (channels of all
    heads, 0 for `dim`) and `hidden` (0 for 4 `dim`) are one number or one a block, those of the
    class token last."""

    dim: int = 128
    depth: int = 12
    heads: PerBlock = 4
    strides: tuple[int, ...] = (2, 2, 2, 2)
    reading: int = 2
    scale: float = 1.0
    tokens_norm: bool = True
    inner: PerBlock = 0
    hidden: PerBlock = 0
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_SIZES = {
    "nano_12": Config(tokens_norm=False),
    "tiny_12": Config(dim=192),
    "tiny_24": Config(dim=192, depth=24, scale=1e-5, drop_path=0.05),
    "small_12": Config(dim=384, heads=8, drop_path=0.05),
    "small_24": Config(dim=384, depth=24, heads=8, scale=1e-5, drop_path=0.1),
    "medium_24": Config(dim=512, depth=24, heads=8, scale=1e-5, drop_path=0.15),
    "large_24": Config(dim=768, depth=24, heads=16, scale=1e-5, drop_path=0.25),
}
# size, and for patches of 16 and of 8: parameters and multiply-adds (of the authors' networks,
# counted), accuracy at 224, and of the distilled one at 384
_ROWS = [
    ("nano_12", (3.05, 0.56, 69.9, 75.4), (3.05, 2.16, 73.8, 77.8)),
    ("tiny_12", (6.72, 1.24, 77.1, 80.9), (6.71, 4.83, 79.7, 82.4)),
    ("tiny_24", (12.12, 2.34, 79.4, 82.6), (12.11, 9.20, 81.9, 83.7)),
    ("small_12", (26.25, 4.85, 82.0, 84.7), (26.21, 18.9, 83.4, 85.1)),
    ("small_24", (47.67, 9.12, 82.6, 85.1), (47.63, 35.9, 83.9, 85.6)),
    ("medium_24", (84.40, 16.2, 82.7, 85.4), (84.32, 63.8, 83.7, 85.8)),
    ("large_24", (189.10, 36.0, 82.9, 85.8), (188.93, 141.9, 84.4, 86.0)),
]
_STEMS = {16: (2, 2, 2, 2), 8: (2, 2, 2)}
VARIANTS = {
    f"xcit_{size}_p{patch}" + ("" if side == 224 else f"_{side}"): Variant(
        replace(_SIZES[size], strides=_STEMS[patch], image=(side, side)),
        params_m=figures[0],
        flops_g=figures[1] if side == 224 else None,
        top1=figures[2] if side == 224 else figures[3],
        hub={"timm": f"hf-hub:timm/xcit_{size}_p{patch}_{side}.fb_{tag}"},
    )
    for size, *both in _ROWS
    for patch, figures in zip((16, 8), both, strict=True)
    for side, tag in ((224, "in1k"), (384, "dist_in1k"))
}
VARIANTS |= {  # beside small_12 the hosts of robust training, arXiv 2209.07399
    "xcit_medium_12_p16": Variant(Config(dim=512, heads=8, drop_path=0.05), params_m=46.4),
    "xcit_large_12_p16": Variant(Config(dim=768, heads=16, drop_path=0.05), params_m=103.8),
}

SPACE = Small(
    Config(reading=1),
    {
        ("dim", "heads"): ((64, 4), (96, 4), (128, 4), (192, 6)),
        "depth": (3, 6),
        "strides": ((2, 2), (2, 2, 2), (2, 2, 2, 2)),
    },
)


NAMES = names.TABLES
WIDTHS = names.widths


class Embed(nn.Module):
    """3x3 convolutions with BatchNorm, GELU between, and positions: an image to (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, count = config, len(config.strides)
        if config.dim % 2 ** (count - 1):
            raise ValueError(
                f"dim is {config.dim}; a stem of {count} convolutions doubles its width up to it: "
                f"expected a multiple of {2 ** (count - 1)}"
            )
        widths = [config.channels, *(config.dim // 2 ** (count - 1 - n) for n in range(count))]
        self.convs = nn.ModuleList(
            ConvNorm(widths[n], widths[n + 1], 3, stride=s) for n, s in enumerate(config.strides)
        )
        self.act = nn.GELU()
        self.position = FourierPosition(config.dim)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return the positions down and across of an image of h x w pixels."""
        stride = math.prod(self.config.strides)
        return math.ceil(h / stride), math.ceil(w / stride)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "xcit")
        x = image.contiguous(memory_format=torch.channels_last)
        for n, conv in enumerate(self.convs):
            x = conv(self.act(x) if n else x)
        x = channels_last(x)
        return x + self.position((x.shape[1], x.shape[2]))


class CrossCovariance(nn.Module):
    """Channels of a head attend to each other over all positions: (B, *S, C) to the same."""

    def __init__(self, dim: int, heads: int, inner: int | None = None) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        self.width = head_width(inner, heads)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = Linear(dim, 3 * inner), Linear(inner, dim)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        maps, v = self._maps(x)
        return self.proj((v @ maps.mT).transpose(1, 2).reshape(*x.shape[:-1], -1))

    def weights(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b heads d d"]:
        """Return which channel of a head looks at which."""
        return self._maps(x)[0]

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attention (B, heads, d, d) and values (B, heads, N, d)."""
        qkv = self.qkv(x).view(x.shape[0], -1, 3, len(self.temperature), self.width)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # To norm the products takes d x d divisions instead of 2 N x d.
        lengths = torch.linalg.vector_norm(qkv[:, :, :2], dim=1).clamp(min=1e-12)
        logits = q.mT @ k / (lengths[:, 0].unsqueeze(-1) * lengths[:, 1].unsqueeze(-2))
        return (logits * self.temperature).softmax(-1), v


class LocalPatches(nn.Module):
    """Depthwise 3x3, GELU, BatchNorm, depthwise 3x3: a map (B, h, w, C) to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = Conv(dim, dim, 3, padding=1, groups=dim)
        self.act, self.norm = nn.GELU(), nn.BatchNorm2d(dim)
        self.conv2 = Conv(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        x = channels_first(self.act(self.conv1(x)))
        return self.conv2(channels_last(self.norm(x)))

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.conv2.weight = frozen(self.conv2.weight * scale[:, None, None, None])
        self.conv2.bias = frozen(self.conv2.bias * scale)  # pyright: ignore[reportOptionalOperand]

    def deployed(self) -> LocalPatches:
        """Turn BatchNorm into two constants: zeros padded after it forbid a bias instead."""
        self.norm = Affine(self.norm)  # pyright: ignore[reportArgumentType]
        return self


class XCABlock(Block):
    """x + mixer, + local, + ffn of their norms, each scaled: (B, h, w, C) to the same."""

    def __init__(self, config: Config, size: Widths) -> None:
        c, norm = config, partial(nn.LayerNorm, eps=1e-6)
        mixer, ffn = CrossCovariance(c.dim, size.heads, size.inner), Mlp(c.dim, size.hidden)
        super().__init__(c.dim, mixer, ffn, norm=norm, scale=c.scale, drop_path=c.drop_path)
        self.norm3, self.local = norm(c.dim), LocalPatches(c.dim)
        self.scale3 = LayerScale(c.dim, c.scale)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        x = x + self.drop_path(self.scale1(self.mixer(self.norm1(x))))
        x = x + self.drop_path(self.scale3(self.local(self.norm3(x))))
        return x + self.drop_path(self.scale2(self.ffn(self.norm2(x))))

    def deployed(self) -> XCABlock:
        """Move LayerScale into the last layer of its branch."""
        self.scale3 = absorbed(self.scale3, self.local)
        super().deployed()
        return self


class ClassBlock(nn.Module):
    """The first token reads, then has its own MLP, as in CaiT but for the authors' quirks."""

    def __init__(self, config: Config, size: Widths) -> None:
        super().__init__()
        c = config
        self.norm1, self.norm2 = (nn.LayerNorm(c.dim, eps=1e-6) for _ in range(2))
        self.mixer = ClassAttention(c.dim, size.heads, inner=size.inner)
        self.ffn = Mlp(c.dim, size.hidden)
        self.scale1, self.scale2 = (LayerScale(c.dim, c.scale) for _ in range(2))
        self.tokens_norm = c.tokens_norm

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        normed = self.norm1(x)
        patches = x[:, 1:] + self.scale1(normed[:, 1:])
        patches = 2 * (self.norm2(patches) if self.tokens_norm else patches)
        return torch.cat([self._token(x, normed), patches], 1)

    def read(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 c"]:
        """Return the token alone, for the last block."""
        return self._token(x, self.norm1(x))

    def _token(self, x: Tensor, normed: Tensor) -> Tensor:
        token = self.norm2(x[:, :1] + self.scale1(self.mixer(normed)))
        return token + self.scale2(self.ffn(token))


class XCiT(Isotropic):
    """Stem, cross-covariance blocks on a map, a class token that reads, linear head."""

    undecayed = ("pool.token",)

    def __init__(self, config: Config) -> None:
        c = config
        usual = c.dim, 4 * c.dim
        sizes = widths(c.heads, c.inner, c.hidden, c.depth + c.reading, usual)
        super().__init__(
            config,
            embed=Embed(c),
            blocks=[XCABlock(c, size) for size in sizes[: c.depth]],
            norm=nn.Identity(),
            pool=ClassReader(c.dim, [ClassBlock(c, size) for size in sizes[c.depth :]]),
            head=linear_head(c.dim, c.classes),
            levels=[Level(math.prod(c.strides), c.dim)],
        )
        trunc_normal_linear(self)


MODEL = XCiT
