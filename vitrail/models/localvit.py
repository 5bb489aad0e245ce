"""LocalViT: a depthwise convolution in the feed-forward network of four transformers.

Li et al., "LocalViT: Bringing Locality to Vision Transformers", 2021, arXiv 2104.05707. The MLP
and its norm give way to an inverted residual on the map of tokens: 1x1, depthwise 3x3 and 1x1
convolution, each with BatchNorm, h-swish between, and squeeze-and-excitation. The hosts are
DeiT, PVT, T2T-ViT and TNT; the Swin host was published too and is not here.

The feed-forward adds its input itself, without norm or stochastic depth, and passes the class
token by: that one is changed by attention alone. SE's gate is a hard sigmoid, ECA's a plain one
("hs+eca") or a hard one ("hs+ecah"). Heads of the DeiT hosts are 4 and 8, not DeiT's 3 and 6.
LayerNorm's eps is 1e-6 in DeiT and PVT, 1e-5 in T2T and TNT. Positions move to other image
sizes as each host's do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.conv import ConvNorm, channels_first, channels_last
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear
from vitrail.layers.patches import ClassPatches, class_row
from vitrail.layers.position import bicubic_grid
from vitrail.layers.reduction import Grid
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models import pvt, t2t_vit, tnt
from vitrail.models.trunk.backbone import Backbone, Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.positions import Table, borrowed, patches

ACTS = ("relu6", "hs", "hs+se", "hs+eca", "hs+ecah")


@dataclass(frozen=True)
class Config:
    """Sizes of a LocalViT on its `host`: "deit", "pvt", "t2t" or "tnt"; one entry a stage.
    `ratios` are the feed-forwards' hidden widths, `squeeze` what these are divided by inside SE,
    `act` one of `ACTS`; `reductions` are PVT's, `inner` and `inner_heads` TNT's."""

    host: str = "deit"
    dims: tuple[int, ...] = (192,)
    depths: tuple[int, ...] = (12,)
    heads: tuple[int, ...] = (4,)
    ratios: tuple[int, ...] = (4,)
    squeeze: tuple[int, ...] = (192,)
    act: str = "hs+se"
    reductions: tuple[int, ...] = (1,)
    inner: int = 12
    inner_heads: int = 3
    patch: int = 16
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_PVT = pvt.Config()
VARIANTS = {
    "localvit_t": Variant(Config(), params_m=5.909, flops_g=1.27, top1=74.84),
    "localvit_t_se4": Variant(Config(squeeze=(4,)), params_m=9.376, flops_g=1.27, top1=75.74),
    "localvit_t_relu6": Variant(Config(ratios=(6,), act="relu6"), params_m=7.655, flops_g=1.62),
    "localvit_s": Variant(
        Config(dims=(384,), heads=(8,), squeeze=(384,)), params_m=22.433, flops_g=4.62, top1=80.78
    ),
    "localvit_pvt_t": Variant(
        Config(
            host="pvt",
            dims=_PVT.dims,
            depths=_PVT.depths,
            heads=_PVT.heads,  # pyright: ignore[reportArgumentType]
            ratios=_PVT.ratios,
            squeeze=_PVT.dims,
            reductions=_PVT.reductions,
            patch=4,
        ),
        params_m=13.456,
        flops_g=1.98,
        top1=78.14,
    ),
    "localvit_t2t_7": Variant(
        Config(host="t2t", dims=(256,), depths=(7,), ratios=(2,), squeeze=(128,)),
        params_m=4.385,
        flops_g=1.15,
        top1=72.5,
    ),
    "localvit_tnt_t": Variant(
        Config(host="tnt", heads=(3,)), params_m=6.261, flops_g=1.42, top1=75.90
    ),
    "localvit_tnt_s": Variant(
        Config(host="tnt", dims=(384,), heads=(6,), squeeze=(384,), inner=24, inner_heads=4),
        params_m=24.138,
        flops_g=5.24,
    ),
}

SPACE = Small(
    Config(drop_path=0.0, ratios=(2,), squeeze=(16,)),
    {
        ("dims", "heads"): (((64,), (2,)), ((96,), (3,)), ((128,), (4,))),
        "depths": ((3,), (5,)),
        "patch": (4, 7, 8, 16),
    },
)

_HOST: dict[str, Callable[[Any], list] | list] = {
    "deit": [
        ("cls_token", "embed.token[+]"),
        ("pos_embed", ("embed.token[+2]", "embed.position"), class_row),
        ("patch_embed.", "embed."),
        (".attn.", ".mixer."),
    ],
    "pvt": pvt.NAMES["whai362/PVT"],
    # The release keeps a norm in the Performers that nothing uses.
    "t2t": [(".norm2.", None), *t2t_vit.NAMES["yitu-opensource/T2T-ViT"]],
    "tnt": tnt.NAMES["timm"],
}


def _authors(config: Config) -> list:
    gated = config.act not in ("relu6", "hs")
    inside = _feed_forward("" if config.host != "t2t" else "blocks.{i}", 7 if gated else 6)
    if config.host == "t2t":  # the Performers' feed-forwards have no gate
        inside += _feed_forward("tokens_to_token.attention{i}", 6)
    rows = _HOST[config.host]
    return [*inside, *(rows(hosted(config)) if callable(rows) else rows)]


def _feed_forward(where: str, last: int) -> list:
    """Rows of a feed-forward whose last convolution is number `last` of its layers."""
    return [
        (f"{where}.conv.conv.0.", f"{where}.ffn.enter.conv."),
        (f"{where}.conv.conv.1.", f"{where}.ffn.enter.norm."),
        (f"{where}.conv.conv.3.", f"{where}.ffn.local.conv."),
        (f"{where}.conv.conv.4.", f"{where}.ffn.local.norm."),
        (f"{where}.conv.conv.6.fc.0.", f"{where}.ffn.gate.fc1."),
        (f"{where}.conv.conv.6.fc.2.", f"{where}.ffn.gate.fc2."),
        (f"{where}.conv.conv.6.conv.", f"{where}.ffn.gate.conv."),
        (f"{where}.conv.conv.{last}.", f"{where}.ffn.leave.conv."),
        (f"{where}.conv.conv.{last + 1}.", f"{where}.ffn.leave.norm."),
    ]


NAMES: dict[str, Callable[[Config], list]] = {"ofsoundof/LocalViT": _authors}


def hosted(config: Config) -> Any:
    """The host's own config of the same sizes; of DeiT this one itself."""
    c = config
    common = {
        "drop_path": c.drop_path,
        "image": c.image,
        "channels": c.channels,
        "classes": c.classes,
    }
    if c.host == "pvt":
        return pvt.Config(c.dims, c.depths, c.heads, c.ratios, c.reductions, c.patch, **common)
    sizes = {"dim": c.dims[0], "depth": c.depths[0], "heads": c.heads[0]}
    if c.host == "t2t":
        return t2t_vit.Config(hidden=c.ratios[0] * c.dims[0], **sizes, **common)
    if c.host == "tnt":
        return tnt.Config(
            inner=c.inner, inner_heads=c.inner_heads, patch=c.patch, **sizes, **common
        )
    return c


_MODULES = {"pvt": pvt, "t2t": t2t_vit, "tnt": tnt}


def _positions(config: Config) -> tuple[Table, ...]:
    """Those of the host; DeiT's are bicubic."""
    if config.host in _MODULES:
        return borrowed(_MODULES[config.host], hosted)
    return (Table("embed.position", patches, bicubic_grid),)


POSITIONS = _positions


class SqueezeGate(nn.Module):
    """Channels weighted by a small network of their means: (B, C, H, W) to the same."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, inner), Linear(inner, dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        means = self.fc2(self.fc1(x.mean((2, 3))).relu())
        return x * nn.functional.hardsigmoid(means)[:, :, None, None]


class ChannelGate(nn.Module):
    """Channels weighted by a 1-D convolution over their means: (B, C, H, W) to the same."""

    def __init__(self, dim: int, *, hard: bool) -> None:
        super().__init__()
        size = int(abs((math.log2(dim) + 1) / 2))
        kernel = size if size % 2 else size + 1
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.act = nn.Hardsigmoid() if hard else nn.Sigmoid()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        means = self.conv(x.mean((2, 3))[:, None])
        return x * self.act(means)[:, 0, :, None, None]


class LocalFeedForward(nn.Module):
    """x plus 1x1, depthwise 3x3, gate and 1x1 of it: tokens (B, prefix + h w, C) of a grid
    (h, w) to the same; the prefix stays as it is."""

    def __init__(self, dim: int, hidden: int, act: str, squeeze: int = 1) -> None:
        super().__init__()
        gates: dict[str, Callable[[], nn.Module]] = {
            "relu6": nn.Identity,
            "hs": nn.Identity,
            "hs+se": lambda: SqueezeGate(hidden, max(1, hidden // squeeze)),
            "hs+eca": lambda: ChannelGate(hidden, hard=False),
            "hs+ecah": lambda: ChannelGate(hidden, hard=True),
        }
        if act not in gates:
            raise ValueError(f"act is {act!r}: expected {', '.join(ACTS)}")
        self.enter, self.local = (
            ConvNorm(dim, hidden, 1),
            ConvNorm(hidden, hidden, 3, groups=hidden),
        )
        self.leave, self.gate = ConvNorm(hidden, dim, 1), gates[act]()
        self.act = nn.ReLU6() if act == "relu6" else nn.Hardswish()

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c"]:
        prefix = x.shape[1] - grid[0] * grid[1]
        tokens = x[:, prefix:]
        y = channels_first(tokens.unflatten(1, grid))
        y = self.gate(self.act(self.local(self.act(self.enter(y)))))
        y = tokens + channels_last(self.leave(y)).flatten(1, 2)
        return torch.cat([x[:, :prefix], y], 1) if prefix else y


class LocalBlock(nn.Module):
    """x + mixer(norm1(x)), then the feed-forward, which adds its input itself."""

    def __init__(
        self, dim: int, mixer: nn.Module, ffn: nn.Module, *, eps: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1, self.mixer, self.ffn = nn.LayerNorm(dim, eps=eps), mixer, ffn
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c"]:
        return self.ffn(x + self.drop_path(self.mixer(self.norm1(x))), grid)


class ReducedBlock(LocalBlock):
    """As LocalBlock, for a mixer that must know the grid."""

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c"]:
        return self.ffn(x + self.drop_path(self.mixer(self.norm1(x), grid)), grid)


class Embed(ClassPatches):
    """DeiT's: an image (B, channels, H, W) to the class token and patches (B, 1 + h w, C)."""

    def __init__(self, config: Config) -> None:
        c = config
        super().__init__(c.channels, c.dims[0], c.patch, image=c.image, std=0.02)
        self.config = config

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        check_image(image, self.config, "localvit")
        return super().forward(image)


class LocalViT(Isotropic):
    """Tokens of one resolution, local blocks that know their grid, class token, linear head."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        c, t2t = config, config.host == "t2t"
        dim, depth, eps = c.dims[0], c.depths[0], 1e-5 if t2t else 1e-6
        blocks = [
            LocalBlock(
                dim,
                Attention(dim, c.heads[0], qkv_bias=not t2t),
                LocalFeedForward(dim, c.ratios[0] * dim, c.act, c.squeeze[0]),
                eps=eps,
                drop_path=rate,
            )
            for rate in rising(c.drop_path, depth)
        ]
        plain = partial(LocalFeedForward, act="hs")
        embed = t2t_vit.TokensToToken(hosted(c), plain) if t2t else Embed(c)
        stride = t2t_vit.stride(hosted(c)) if t2t else c.patch
        super().__init__(
            config,
            embed=embed,
            blocks=blocks,
            norm=nn.LayerNorm(dim, eps=eps),
            pool=FirstToken(),
            head=Linear(dim, c.classes),
            levels=[Level(stride, dim)],
        )
        trunc_normal_linear(self)

    def tokens(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        return self.norm(self._after(image)[-1])

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """The last block's map after the norm, or those after the blocks `at`, unnormed."""
        found, grid = self._after(image), self.embed.grid(*image.shape[-2:])  # pyright: ignore
        chosen = [self.norm(found[-1])] if at is None else [found[j] for j in at]
        return [x[:, 1:].unflatten(1, grid) for x in chosen]

    def _after(self, image: Tensor) -> list[Tensor]:
        """Tokens (B, 1 + h w, C) after every block."""
        x, grid = self.embed(image), self.embed.grid(*image.shape[-2:])  # pyright: ignore
        found = []
        for block in self.blocks:
            x = self.blocks.run(block, x, grid)
            found.append(x)
        return found


def build(config: Config) -> Backbone:
    """The network of a config, on its host. Raises ValueError."""
    c = config
    if c.host in ("deit", "t2t"):
        return LocalViT(c)
    if c.host == "pvt":

        def block(i: int, mixer: nn.Module, hidden: int, drop_path: float) -> nn.Module:
            ffn = LocalFeedForward(c.dims[i], hidden, c.act, c.squeeze[i])
            return ReducedBlock(c.dims[i], mixer, ffn, eps=1e-6, drop_path=drop_path)

        made: Backbone = pvt.PVT(hosted(c), block)
    elif c.host == "tnt":
        dim = c.dims[0]
        ffn = partial(LocalFeedForward, dim, c.ratios[0] * dim, c.act, c.squeeze[0])
        made = tnt.TNT(hosted(c), ffn)
    else:
        raise ValueError(f"host is {c.host!r}: expected deit, pvt, t2t or tnt")
    made.config = config
    return made


def idle(config: Config) -> tuple[str, ...]:
    """Parts of names of parameters that no gradient reaches: nothing reads what the last block
    makes of the patches."""
    return () if config.host == "pvt" else (f"blocks.{config.depths[0] - 1}.ffn.",)


MODEL = build
