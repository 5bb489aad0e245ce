"""ACmix: attention and convolution on the same three projections, in four hosts.

Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022, arXiv 2111.14556.
A k x k convolution is k^2 1x1 projections, shifted and summed; attention begins with three. So q,
k and v are projected once: local attention reads them, and a light path mixes the numbers that
the heads have in a channel to k^2 and sends them through grouped kernels, which start as shifts.
Two learned rates weigh the sum.

The hosts are ResNet and Swin, whose code and names are public, and PVT and SAN, which were only
reported and are readings. In ResNet every 3x3 convolution gives way: the attention of a 7x7
window, mirrored beyond the border, has positions from a linear map of the coordinates in
[-1, 1]. What a query's own position adds to all its logits goes out in the softmax, so keys less
their positions are enough. The convolution's output has channels [channel][head], the
attention's [head][channel]: the sum pairs different ones, as in the authors' code. A map that is
smaller than the window is mirrored again; the authors' code refuses it, and odd maps with strides.

In Swin the path runs on the shifted map of a block, padded as Swin's windows are, and sees the
seam. In PVT keys and values of the reduced map stand for all positions that they summarise, which
fits the published operations; the class token has attention only, so nobody reads what the last
block makes of the map. In SAN the path is added to patchwise attention, whose values are four
times as wide as its queries. The published parameters of ResNet and Swin hosts are rounded up;
here are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend
from vitrail.layers.conv import channels_first, channels_last
from vitrail.layers.linear import Linear
from vitrail.layers.reduction import Grid, ReducedAttention
from vitrail.layers.windows import WindowAttention, reverse
from vitrail.models import pvt, resnet, swin
from vitrail.models.parts import san
from vitrail.models.parts.acmix_paths import Coordinates, Gain, Mirrored, Plain, Rates, Shift
from vitrail.models.trunk.backbone import Backbone, Small, Variant
from vitrail.models.trunk.positions import Table, borrowed


@dataclass(frozen=True)
class Config:
    """Sizes of an ACmix network on its `host`: "resnet", "swin", "pvt" or "san"; one entry a stage.

    `window` is the attention's side, `kernel` that of the convolution, `patch` the stride of the
    first map. `expansion` is the ResNet's, `ratios` and `reductions` are PVT's.
    """

    host: str = "resnet"
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (1, 2, 4, 1)
    heads: tuple[int, ...] = (4, 4, 4, 4)
    window: int = 7
    kernel: int = 3
    expansion: int = 4
    ratios: tuple[int, ...] = (8, 8, 4, 4)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    patch: int = 4
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_SWIN = Config("swin", (96, 192, 384, 768), (2, 2, 6, 2), (3, 6, 12, 24), drop_path=0.2)
_PVT = Config("pvt", (64, 128, 320, 512), (2, 2, 2, 2), (1, 2, 5, 8), drop_path=0.1)
_SAN = Config("san", (64, 256, 512, 1024, 2048), (2, 1, 2, 4, 1), (1,) * 5, patch=2)
_KEYS = "counted are all keys of a tile of queries, masked ones too, published the window's alone"
# name, sizes; parameters, multiply-adds, accuracy
_ROWS = [
    ("acmix_resnet26", Config(), 10.488, 2.3, 76.1),
    ("acmix_resnet38", Config(depths=(2, 3, 5, 2)), 14.411, 2.9, 77.4),
    ("acmix_resnet50", Config(depths=(3, 4, 6, 3)), 18.334, 3.6, 77.8),
    ("acmix_swin_tiny", _SWIN, 28.650, 4.6, 81.9),
    ("acmix_swin_small", replace(_SWIN, depths=(2, 2, 18, 2), drop_path=0.3), 50.345, 9.0, 83.5),
    ("acmix_pvt_tiny", _PVT, 13.0, 2.0, 78.0),
    ("acmix_pvt_small", replace(_PVT, depths=(3, 4, 6, 3)), 25.0, 3.9, 81.7),
]
VARIANTS = {
    name: Variant(
        config,
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        note=_KEYS if config.host == "resnet" else "",
    )
    for name, config, params_m, flops_g, top1 in _ROWS
}
_UNSURE = (
    "no code was published, this is a reading; reported are {} M parameters and {} G operations"
)
for _layers, _depths, _params_m, _flops_g, _top1 in (
    (10, (2, 1, 2, 4, 1), 12.1, 1.9, 77.6),
    (15, (3, 2, 3, 5, 2), 16.6, 2.7, 78.4),
    (19, (3, 3, 4, 6, 3), 21.2, 3.4, 78.7),
):
    VARIANTS[f"acmix_san{_layers}"] = Variant(
        replace(_SAN, depths=_depths), top1=_top1, note=_UNSURE.format(_params_m, _flops_g)
    )

SPACE = Small(
    Config(expansion=2),
    {
        ("host", "dims", "depths", "heads", "patch"): (
            ("resnet", (16, 32), (1, 1), (4, 4), 2),
            ("resnet", (32, 64, 128), (1, 1, 1), (4, 4, 4), 1),
            ("resnet", (32, 64, 128), (1, 2, 1), (4, 4, 4), 4),
            ("swin", (32, 64), (2, 2), (2, 4), 2),
            ("swin", (48, 96), (2, 4), (2, 4), 4),
        ),
    },
)


def _authors(config: Config) -> list:
    if config.host == "swin":
        return [
            (".attn.rate1", ".mixer.rates.attention"),
            (".attn.rate2", ".mixer.rates.convolution"),
            (".attn.fc.weight", ".mixer.path.fc.weight", lambda v: v.flatten(1)),
            (".attn.fc.", ".mixer.path.fc."),
            (".attn.dep_conv.", ".mixer.path.conv."),
            *swin.NAMES["microsoft/Swin-Transformer"],  # pyright: ignore
        ]
    if config.host != "resnet":
        return []
    ours = ".mixer."
    return [
        *[
            (f".conv2.conv{n + 1}.{leaf}", f"{ours}qkv.{leaf}[{n}/3]", _flat)
            for n in range(3)
            for leaf in ("weight", "bias")
        ],
        (".conv2.rate1", f"{ours}rates.attention"),
        (".conv2.rate2", f"{ours}rates.convolution"),
        (".conv2.conv_p.weight", f"{ours}position.weight", _flat),
        (".conv2.conv_p.", f"{ours}position."),
        (".conv2.fc.weight", f"{ours}path.fc.weight", _flat),
        (".conv2.dep_conv.", f"{ours}path.conv."),
        *resnet.NAMES["torchvision"](hosted(config)),
    ]


def _flat(kernel: Tensor) -> Tensor:
    """A 1x1 kernel as the matrix it is; a bias stays one."""
    return kernel.flatten(1) if kernel.ndim > 1 else kernel


NAMES: dict[str, Callable[[Config], list]] = {"LeapLabTHU/ACmix": _authors}


def hosted(config: Config) -> Any:
    """The host's own config of the same sizes; of SAN this one itself. Raises ValueError."""
    c = config
    if not len(c.dims) == len(c.depths) == len(c.heads):
        raise ValueError(
            f"dims {c.dims}, depths {c.depths} and heads {c.heads} differ in length: one each a "
            "stage"
        )
    common = {
        "drop_path": c.drop_path,
        "image": c.image,
        "channels": c.channels,
        "classes": c.classes,
    }
    if c.host == "resnet":
        return resnet.Config(c.depths, c.dims, c.expansion, stem_stride=c.patch, **common)
    if c.host == "swin":
        if c.dims != tuple(c.dims[0] * 2**i for i in range(len(c.depths))):
            raise ValueError(f"dims are {c.dims}: a swin doubles its width from stage to stage")
        sizes = {"depths": c.depths, "heads": c.heads, "window": c.window, "patch": c.patch}
        return swin.Config(c.dims[0], **sizes, **common)
    if c.host == "pvt":
        sizes = (c.dims, c.depths, c.heads, c.ratios, c.reductions, c.patch)
        return pvt.Config(*sizes, **common)
    if c.host != "san":
        raise ValueError(f"host is {c.host!r}: expected resnet, swin, pvt or san")
    return c


_MODULES = {"swin": swin, "pvt": pvt}


def _positions(config: Config) -> tuple[Table, ...]:
    """Those of the host; ACmix's own weights stay."""
    return borrowed(_MODULES[config.host], hosted) if config.host in _MODULES else ()


POSITIONS = _positions


class ACmix(nn.Module):
    """Local attention and convolution: (B, C, h, w) views to (B, C', h', w'), of a `stride`."""

    def __init__(
        self,
        dim_in: int,
        dim: int,
        heads: int,
        *,
        window: int = 7,
        kernel: int = 3,
        stride: int = 1,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} does not divide into {heads} heads: choose a divisor")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window is {window}: expected an odd number, it has a centre")
        self.heads, self.local = heads, Mirrored(window, stride)
        self.qkv = Linear(dim_in, 3 * dim)
        self.position = Coordinates(dim // heads)
        sizes = {"kernel": kernel, "stride": stride, "bias": False}
        self.path = Shift(3 * heads, dim // heads, heads, **sizes)
        self.rates: nn.Module = Rates()
        self.reset()

    def reset(self) -> None:
        """Projections He-normal by fan-out, as the convolutions of a ResNet."""
        nn.init.normal_(self.qkv.weight, std=(6 / self.qkv.out_features) ** 0.5)
        nn.init.zeros_(self.qkv.bias)
        self.path.reset()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        qkv = self.qkv(channels_last(x))
        attended = self.local.attend(*self._heads(qkv)).flatten(3)
        return channels_first(self.rates(attended, channels_last(self.path(qkv))))

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "bt n t s"]:
        """Attention of every head in every tile of queries, rows are queries."""
        q, k, _ = self._heads(self.qkv(channels_last(x)))
        return self.local.weights(q, k)

    def deployed(self) -> nn.Module:
        """The convolution takes its rate."""
        assert isinstance(self.rates, Rates)
        self.path.absorb(self.rates.convolution.expand(self.qkv.out_features // 3))
        self.rates = Gain(self.rates.attention)
        return self

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Of a deployed module: multiply the output's channels and add to them, for good."""
        assert isinstance(self.rates, Gain)
        self.path.absorb(scale, shift)
        self.rates = Gain(self.rates.gain * scale)

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k less positions, and v, (B, h, w, heads, d) each."""
        q, k, v = qkv.unflatten(3, (3, self.heads, -1)).unbind(3)
        return q, k - self.position((qkv.shape[1], qkv.shape[2])), v


class WindowACmix(WindowAttention):
    """ACmix in Swin's windows: a map (B, h, w, C) to the same. The convolution is added behind
    the output projection."""

    def __init__(self, dim: int, heads: int, *, kernel: int = 3, **sizes: Any) -> None:
        super().__init__(dim, heads, **sizes)
        self.path = Shift(3 * heads, dim // heads, heads, kernel=kernel, stride=1, bias=True)
        self.rates: nn.Module = Rates()

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        _, h, w, c = x.shape
        x, shift = self._shifted(x)
        grid, qkv = (x.shape[1], x.shape[2]), self.qkv(x)
        q, k, v = self._windows(qkv)
        bias = self.bias(grid, shift)
        bias = bias if len(bias) == 1 else bias.repeat(len(x), 1, 1, 1)
        attended = attend(q, k, v, bias=bias).transpose(1, 2).reshape(-1, self.window**2, c)
        attended = reverse(self.proj(attended), self.window, grid)
        out = self.rates(attended, channels_last(self.path(qkv)))
        if any(shift):
            out = out.roll(shift, (1, 2))
        return out if grid == (h, w) else out[:, :h, :w]

    def deployed(self) -> nn.Module:
        """Both paths take their rates."""
        return _rated(self)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Of a deployed module: multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)
        self.path.absorb(scale)

    def _windows(self, qkv: Tensor) -> Float[Tensor, "3 bn heads t d"]:
        size, (h, w) = self.window, qkv.shape[1:3]
        cut = (h // size, size, w // size, size, 3, self.heads, -1)
        cut = qkv.reshape(len(qkv), *cut).permute(5, 0, 1, 3, 6, 2, 4, 7)
        return cut.flatten(5, 6).flatten(1, 3)


class ReducedACmix(ReducedAttention):
    """ACmix in PVT: tokens (B, prefix + h w, C) of a grid (h, w) to the same."""

    def __init__(self, dim: int, heads: int, ratio: int, *, kernel: int = 3) -> None:
        super().__init__(dim, heads, ratio)
        self.path = Shift(3 * heads, dim // heads, heads, kernel=kernel, stride=1, bias=True)
        self.rates: nn.Module = Rates()

    def forward(self, x: Float[Tensor, "b n c"], grid: Grid) -> Float[Tensor, "b n c"]:
        q, k, v = self._heads(x, grid)
        attended = self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        convolved = channels_last(self.path(self._map(q, k, v, grid))).flatten(1, 2)
        prefix = x.shape[1] - convolved.shape[1]
        return self.rates(attended, nn.functional.pad(convolved, (0, 0, prefix, 0)))

    def deployed(self) -> nn.Module:
        """Both paths take their rates."""
        return _rated(self)

    def _map(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid) -> Float[Tensor, "b h w c"]:
        """q and what stands for k and v at every position, (B, h, w, 3 C)."""
        ratio = 1 if self.reduce is None else self.reduce.ratio
        reduced = tuple(max(1, side // ratio) for side in grid)
        found = [q[:, :, q.shape[2] - grid[0] * grid[1] :].unflatten(2, grid)]
        for part in (k, v):
            part = part[:, :, part.shape[2] - reduced[0] * reduced[1] :].unflatten(2, reduced)
            for axis in (2, 3) if ratio > 1 else ():
                at = torch.arange(grid[axis - 2], device=part.device) // ratio
                part = part.index_select(axis, at.clamp(max=reduced[axis - 2] - 1))
            found.append(part)
        return torch.stack(found, 1).permute(0, 3, 4, 1, 2, 5).flatten(3)


def _rated(mixer: Any) -> nn.Module:
    """A mixer whose projection and convolution have their rates."""
    width, rates = mixer.proj.out_features, mixer.rates
    mixer.proj = mixer.proj.scaled(rates.attention.expand(width))
    mixer.path.absorb(rates.convolution.expand(width))
    mixer.rates = Plain()
    return mixer


class PatchwiseACmix(nn.Module):
    """ACmix in SAN: (B, C, h, w) views to a quarter of the channels. One of a query's numbers,
    one of a key's and four of a value's make four of the convolution's output."""

    def __init__(self, dim: int, *, window: int, kernel: int = 3) -> None:
        super().__init__()
        if dim % (4 * san.SHARE):
            raise ValueError(f"dim is {dim}: a san needs multiples of {4 * san.SHARE}")
        self.rel, self.window = dim // 16, window
        self.qkv = Linear(dim, 6 * self.rel)
        self.draw = san.Patchwise(self.rel, dim // 4 // san.SHARE, window)
        self.path = Shift(6, self.rel, 4, kernel=kernel, stride=1, bias=False)
        self.rates: nn.Module = Rates()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        qkv = self.qkv(channels_last(x))
        q, k, v = qkv.split((self.rel, self.rel, 4 * self.rel), 3)
        attended = san.gathered(self.draw(q, k), v, self.window)
        return channels_first(self.rates(attended, channels_last(self.path(qkv))))

    def deployed(self) -> nn.Module:
        """The convolution takes its rate."""
        assert isinstance(self.rates, Rates)
        self.path.absorb(self.rates.convolution.expand(4 * self.rel))
        self.rates = Gain(self.rates.attention)
        return self

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """As ACmix's."""
        assert isinstance(self.rates, Gain)
        self.path.absorb(scale, shift)
        self.rates = Gain(self.rates.gain * scale)


def build(config: Config) -> Backbone:
    """The network of a config, on its host. Raises ValueError."""
    c, inside = config, hosted(config)
    if c.host == "resnet":

        def mixed(i: int, j: int, dim: int, stride: int) -> nn.Module:
            sizes = {"window": c.window, "kernel": c.kernel, "stride": stride}
            return ACmix(dim, dim, c.heads[i], **sizes)

        made: Backbone = resnet.ResNet(inside, mixed, bottleneck=True)
    elif c.host == "swin":
        grids = swin.grids(inside)

        def windowed(i: int, j: int) -> nn.Module:
            sizes = {"window": c.window, "shifted": j % 2 == 1, "grid": grids[i]}
            return WindowACmix(c.dims[i], c.heads[i], kernel=c.kernel, **sizes)

        made = swin.Swin(inside, windowed)
    elif c.host == "pvt":

        def block(i: int, mixer: nn.Module, hidden: int, drop_path: float) -> nn.Module:
            del mixer  # the host's own
            own = ReducedACmix(c.dims[i], c.heads[i], c.reductions[i], kernel=c.kernel)
            return pvt.PVTBlock(c.dims[i], own, hidden, drop_path)

        made = pvt.PVT(inside, block)
    else:

        def patchwise(i: int, j: int) -> nn.Module:
            return PatchwiseACmix(c.dims[i], window=c.window if i else 3, kernel=c.kernel)

        made = san.SAN(inside, patchwise)
    for module in made.modules():
        if isinstance(module, Shift | ACmix):  # hosts initialise all convolutions alike
            module.reset()
    made.config = config
    return made


def idle(config: Config) -> tuple[str, ...]:
    """Parts of names of parameters without gradients but by rounding: the position's bias is added
    to all logits of a softmax alike."""
    return ("position.bias",)


MODEL = build
