"""LocalViT: a depthwise convolution in the feed-forward network of five transformers.

Li et al., "LocalViT: Bringing Locality to Vision Transformers", 2021, arXiv 2104.05707. The MLP
and its norm give way to an inverted residual on the map of tokens: 1x1, depthwise 3x3 and 1x1
convolution, each with BatchNorm, h-swish between, and squeeze-and-excitation. The hosts are
DeiT, PVT, Swin, T2T-ViT and TNT.

The feed-forward adds its input itself, without norm or stochastic depth, and passes the class
token by: that one is changed by attention alone. SE's gate is a hard sigmoid, ECA's a plain one
("hs+eca") or a hard one ("hs+ecah"). Heads of the DeiT hosts are 4 and 8, not DeiT's 3 and 6.
LayerNorm's eps is 1e-6 in DeiT and PVT, 1e-5 in the others. The ablations put the depthwise
convolution before the first 1x1, which only fits where the feed-forward is no wider inside, or
leave it out. Positions move to other image sizes as each host's do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.patches import ClassPatches
from vitrail.layers.reduction import Grid
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models import deit, pvt, swin, t2t_vit, tnt
from vitrail.models.names import localvit as names
from vitrail.models.parts.local_feed_forward import LocalFeedForward
from vitrail.models.trunk.backbone import Backbone, Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.hosts import Flat, Hosted, moved, positions

_T = deit.Config(heads=4)


@dataclass(frozen=True)
class Config(Hosted):
    """A host's sizes, hidden widths included, and what its feed-forwards become: `act` and `local`
    as `LocalFeedForward` has them, and what hidden widths are divided by inside of SE, `squeeze`,
    one number a stage."""

    host: deit.Config | pvt.Config | swin.Config | t2t_vit.Config | tnt.Config = _T
    squeeze: tuple[int, ...] = (192,)
    act: str = "hs+se"
    local: str = "between"


_PVT, _SWIN = pvt.Config(), swin.Config(drop_path=0.1)
_S = deit.Config(dim=384, heads=8, hidden=1536)
_TNT_T = tnt.Config(dim=192, heads=3, inner=12, inner_heads=3)
VARIANTS = {
    "localvit_t": Variant(Config(_T), params_m=5.909, flops_g=1.27, top1=74.84),
    "localvit_t_se4": Variant(Config(_T, (4,)), params_m=9.376, flops_g=1.27, top1=75.74),
    "localvit_t_relu6": Variant(
        Config(deit.Config(heads=4, hidden=1152), act="relu6"), params_m=7.655, flops_g=1.62
    ),
    "localvit_s": Variant(Config(_S, (384,)), params_m=22.433, flops_g=4.62, top1=80.78),
    "localvit_pvt_t": Variant(Config(_PVT, _PVT.dims), params_m=13.456, flops_g=1.98, top1=78.14),
    "localvit_swin_t": Variant(
        Config(_SWIN, (24, 48, 96, 192)), params_m=29.079, flops_g=4.54, top1=81.86
    ),
    "localvit_t2t_7": Variant(
        Config(t2t_vit.Config(), (128,)), params_m=4.385, flops_g=1.15, top1=72.5
    ),
    "localvit_tnt_t": Variant(Config(_TNT_T), params_m=6.261, flops_g=1.42, top1=75.90),
    "localvit_tnt_s": Variant(Config(tnt.Config(), (384,)), params_m=24.138, flops_g=5.24),
}

_WIDTHS = ((64, 2), (96, 3), (128, 4))
_SPACE = product(_WIDTHS, (3, 5), (4, 7, 8, 16))
SPACE = Small(
    Config(drop_path=0.0, squeeze=(16,)),
    {"host": tuple(deit.Config(d, depth, n, 2 * d, patch) for (d, n), depth, patch in _SPACE)},
)

POSITIONS = positions
NAMES = names.TABLES


# A host without stages had its sizes in tuples of one.
_ONE = {
    "dim": lambda v: v["dims"][0],
    "depth": lambda v: v["depths"][0],
    "heads": lambda v: v["heads"][0],
}
_HIDDEN = {**_ONE, "hidden": lambda v: v["ratios"][0] * v["dims"][0]}
FLAT: Flat = {
    "host": {
        "deit": moved("deit", "patch", made=_HIDDEN),
        "pvt": moved("pvt", "dims", "depths", "heads", "ratios", "reductions", "patch"),
        "t2t": moved("t2t_vit", made=_HIDDEN),
        "tnt": moved("tnt", "inner", "inner_heads", "patch", made=_ONE),
    }
}


class LocalBlock(nn.Module):
    """x + mixer(norm1(x)), then the feed-forward, which adds its input itself: tokens
    (B, prefix + h w, C) of a grid to the same, or a map (B, h, w, C) without one."""

    def __init__(
        self, dim: int, mixer: nn.Module, ffn: nn.Module, *, eps: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1, self.mixer, self.ffn = nn.LayerNorm(dim, eps=eps), mixer, ffn
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Float[Tensor, "b *n c"], grid: Grid | None = None
    ) -> Float[Tensor, "b *n c"]:
        return self.ffn(x + self.drop_path(self.mixer(self.norm1(x))), grid)


class ReducedBlock(LocalBlock):
    """As LocalBlock, for a mixer that must know the grid."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b n c"], grid: Grid
    ) -> Float[Tensor, "b n c"]:
        return self.ffn(x + self.drop_path(self.mixer(self.norm1(x), grid)), grid)


class Embed(ClassPatches):
    """DeiT's: an image (B, channels, H, W) to the class token and patches (B, 1 + h w, C)."""

    def __init__(self, config: deit.Config) -> None:
        c = config
        super().__init__(c.channels, c.dim, c.patch, image=c.image, std=0.02)
        self.config = config

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "localvit")
        return image


class LocalViT(Isotropic):
    """Tokens of one resolution, local blocks that know their grid, class token, linear head.

    `embed` makes the tokens of an image, `stride` pixels apart.
    """

    undecayed = ("embed.position", "embed.token")

    def __init__(
        self, config: Config, embed: nn.Module, stride: int, *, eps: float, qkv_bias: bool
    ) -> None:
        host: Any = config.host
        blocks = [
            LocalBlock(
                host.dim,
                Attention(host.dim, host.heads, qkv_bias=qkv_bias),
                feed_forward(config)(host.dim, host.hidden),
                eps=eps,
                drop_path=rate,
            )
            for rate in rising(host.drop_path, host.depth)
        ]
        super().__init__(
            config,
            embed=embed,
            blocks=blocks,
            norm=nn.LayerNorm(host.dim, eps=eps),
            pool=FirstToken(),
            head=linear_head(host.dim, host.classes),
            levels=[Level(stride, host.dim)],
        )
        trunc_normal_linear(self)

    def tokens(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        return self.norm(self._after(image)[-1])

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the last block's map after the norm, or those after the blocks `at`, unnormed."""
        found, grid = self._after(image), self.embed.grid(*image.shape[-2:])  # pyright: ignore
        chosen = [self.norm(found[-1])] if at is None else [found[j] for j in at]
        return [x[:, 1:].unflatten(1, grid) for x in chosen]

    def _after(self, image: Tensor) -> list[Tensor]:
        """Return the tokens (B, 1 + h w, C) after every block."""
        x, grid = self.embed(image), self.embed.grid(*image.shape[-2:])  # pyright: ignore
        found = []
        for block in self.blocks:
            x = self.blocks.run(block, x, grid)
            found.append(x)
        return found


def feed_forward(config: Config, stage: int = 0) -> Callable[[int, int], nn.Module]:
    """Return what makes a stage's feed-forwards of their width and hidden width."""
    c = config
    return partial(LocalFeedForward, act=c.act, squeeze=c.squeeze[stage], local=c.local)


def in_deit(config: Config, host: deit.Config) -> Backbone:
    """Build LocalViT in DeiT, which has a class token only. Raises ValueError."""
    if host.distilled:
        raise ValueError("host.distilled is true: LocalViT is in a DeiT without a second token")
    return LocalViT(config, Embed(host), host.patch, eps=1e-6, qkv_bias=True)


def in_t2t_vit(config: Config, host: t2t_vit.Config) -> Backbone:
    """Build LocalViT in T2T-ViT, where the transformers between the splits have no gates."""
    embed = t2t_vit.TokensToToken(host, partial(LocalFeedForward, act="hs"))
    return LocalViT(config, embed, t2t_vit.stride(host), eps=1e-5, qkv_bias=False)


def in_pvt(config: Config, host: pvt.Config) -> Backbone:
    """Build LocalViT in all stages of a PVT."""

    def block(i: int, mixer: nn.Module, hidden: int, drop_path: float) -> nn.Module:
        ffn = feed_forward(config, i)(host.dims[i], hidden)
        return ReducedBlock(host.dims[i], mixer, ffn, eps=1e-6, drop_path=drop_path)

    return pvt.PVT(host, block)


def in_swin(config: Config, host: swin.Config) -> Backbone:
    """Build LocalViT in all stages of a Swin."""
    made = swin.Swin(host)
    for i, (stage, level) in enumerate(zip(made.stages, made.levels, strict=True)):
        dim, blocks = level.channels, stage.get_submodule("blocks")
        for j, old in enumerate(blocks.children()):
            ffn = feed_forward(config, i)(dim, 4 * dim)
            rate = old.drop_path.rate  # pyright: ignore
            block = LocalBlock(dim, old.mixer, ffn, eps=1e-5, drop_path=rate)  # pyright: ignore
            blocks.add_module(str(j), block)
    trunc_normal_linear(made)
    return made


def in_tnt(config: Config, host: tnt.Config) -> Backbone:
    """Build LocalViT in the outer blocks of a TNT."""
    return tnt.TNT(host, partial(feed_forward(config), host.dim, 4 * host.dim))


HOSTS: dict[type, Callable[[Config, Any], Backbone]] = {
    deit.Config: in_deit,
    pvt.Config: in_pvt,
    swin.Config: in_swin,
    t2t_vit.Config: in_t2t_vit,
    tnt.Config: in_tnt,
}


def build(config: Config) -> Backbone:
    """Build the network of a config, in its host. Raises ValueError."""
    stages = len(getattr(config.host, "depths", (0,)))
    if len(config.squeeze) != stages:
        raise ValueError(f"squeeze is {config.squeeze}: expected one number for each of {stages}")
    made = HOSTS[type(config.host)](config, config.host)
    made.config = config
    return made


def idle(config: Config) -> tuple[str, ...]:
    """Return parts of names of parameters that no gradient reaches: nothing reads what the last
    block makes of the patches.
    """
    host: Any = config.host
    return () if hasattr(host, "depths") else (f"blocks.{host.depth - 1}.ffn.",)


MODEL = build
