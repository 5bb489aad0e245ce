"""HorNet: a convolution gates itself again and again, so that positions interact to order n.

Rao et al., "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated
Convolutions", NeurIPS 2022, arXiv 2207.14284. A pyramid like ConvNeXt's. One filter sees all
slices of the recursion at once: a depthwise 7x7 convolution, or in the late stages of the GF
models a 3x3 one on half of the channels and a learned table over the Fourier transform of the
other half, their outputs interleaved.

No activation stands between the gates, and the filter is scaled by 1/3. Tables belong to the
config's image; on another one they are resized on the way, linearly with coinciding corners.
Any image of at least the total stride may be given: as in the authors' code, rows and columns
that do not fill a patch are dropped, so sizes round down. The filter's branch is at least
float32, whatever the model is. The published parameters of the large models, 209, 211 and 216
million, fit no number of classes that the authors used, so they are left out; their accuracy
is that of fine-tuning after ImageNet-22k.

ONNX has no inverse of the real transform. `deploy` writes both transforms of the config's
image as products with matrices of cosines and sines, equal up to rounding, and that is what is
exported; at other sizes a deployed model still transforms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear, frozen
from vitrail.layers.position import zoom_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import Mean
from vitrail.models.names import hornet as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table

Grid = tuple[int, int]
Norm = partial(nn.LayerNorm, eps=1e-6)
SCALE = 1 / 3


@dataclass(frozen=True)
class Config:
    """Sizes of a HorNet: `dim` of the first stage, doubled by each; per stage its blocks, the
    order of their recursion and the side of the depthwise filter, 0 for a global one. `scale`
    is where LayerScale starts."""

    dim: int = 64
    depths: tuple[int, ...] = (2, 3, 18, 2)
    orders: tuple[int, ...] = (2, 3, 4, 5)
    kernels: tuple[int, ...] = (7, 7, 7, 7)
    patch: int = 4
    scale: float = 1e-6
    drop_path: float = 0.2
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_NOTE = "Fourier transforms are not counted: by the authors' formula some 0.4 % of the whole"
# size, dim, drop path, filter, image; parameters, multiply-adds, accuracy
VARIANTS = {
    f"hornet_{size}_{kind}" + ("" if side == 224 else f"_img{side}"): Variant(
        Config(
            dim=dim,
            drop_path=drop_path,
            kernels=(7, 7, 0, 0) if kind == "gf" else (7, 7, 7, 7),
            image=(side, side),
        ),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        note=_NOTE if kind == "gf" else "",
    )
    for size, dim, drop_path, kind, side, params_m, flops_g, top1 in [
        ("tiny", 64, 0.2, "7x7", 224, 22.41, 3.98, 82.8),
        ("tiny", 64, 0.2, "gf", 224, 22.99, 3.9, 83.0),
        ("small", 96, 0.4, "7x7", 224, 49.53, 8.8, 83.8),
        ("small", 96, 0.4, "gf", 224, 50.40, 8.7, 84.0),
        ("base", 128, 0.5, "7x7", 224, 87.26, 15.6, 84.2),
        ("base", 128, 0.5, "gf", 224, 88.42, 15.5, 84.3),
        ("base", 128, 0.5, "gf", 384, 92.10, None, None),
        ("large", 192, 0.4, "7x7", 224, None, 34.8, None),
        ("large", 192, 0.4, "gf", 224, None, 34.7, 87.0),
        ("large", 192, 0.4, "gf", 384, None, 101.8, 87.7),
    ]
}

SPACE = Small(
    Config(drop_path=0.05, scale=1e-2),
    {
        ("dim", "depths", "orders", "kernels"): (
            (32, (2, 2), (2, 3), (7, 0)),
            (32, (2, 4), (2, 3), (7, 7)),
            (64, (2, 4), (2, 3), (7, 7)),
            (32, (2, 2, 4), (2, 3, 4), (7, 7, 0)),
        ),
        "patch": (2, 4, 8),
    },
)


def widths(dim: int, order: int) -> list[int]:
    """Return the channels of the slices of a recursion, first to last: the last is `dim`."""
    if order < 1 or dim % 2 ** (order - 1):
        raise ValueError(
            f"dim is {dim}, order {order}; each gate but the last halves the width: expected a "
            f"multiple of {2 ** max(order - 1, 0)} and an order of 1 or more"
        )
    return [dim // 2**k for k in reversed(range(order))]


NAMES = names.TABLES


def _frequencies(config: Config, stage: int, _: int) -> Grid:
    """Return the frequencies of a stage's map, half of them across."""
    h, w = grids(config)[stage]
    return h, w // 2 + 1


POSITIONS = (
    Table("stages.{i}.blocks.{j}.mixer.filter.wide.table", _frequencies, zoom_grid, axes=(0, 1)),
)


def grids(config: Config) -> list[Grid]:
    """Return the rows and columns of each stage's map at the config's image, rounded down."""
    strides = [config.patch * 2**i for i in range(len(config.depths))]
    return [(config.image[0] // s, config.image[1] // s) for s in strides]


def resized(table: Float[Tensor, "h w c2"], shape: Grid) -> Float[Tensor, "h2 w2 c2"]:
    """Turn a table of frequencies into one for another map, linearly with coinciding corners."""
    old = (table.shape[0], table.shape[1])
    return zoom_grid(table.flatten(0, 1)[None], old, shape)[0].unflatten(0, shape)


class GlobalFilter(nn.Module):
    """A circular convolution as wide as the map: (B, h, w, C) to the same. `table` (h, w/2 + 1,
    2C) holds a complex factor for every frequency of a map of `grid` and every channel."""

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.empty(grid[0], grid[1] // 2 + 1, 2 * dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        h, w = x.shape[1:3]
        table = resized(self.table.to(x.dtype), (h, w // 2 + 1)).unflatten(2, (-1, 2))
        seen = torch.fft.rfft2(x, dim=(1, 2), norm="ortho") * torch.view_as_complex(table)
        return torch.fft.irfft2(seen, (h, w), dim=(1, 2), norm="ortho")

    def deployed(self) -> nn.Module:
        """Return the same filter by products of matrices."""
        return FilterByProducts(self)


class FilterByProducts(nn.Module):
    """A `GlobalFilter` whose transforms are products with cosines and sines, on maps of its
    grid; on others it transforms."""

    across: Tensor
    down: Tensor
    factors: Tensor

    def __init__(self, filter: GlobalFilter) -> None:
        super().__init__()
        self.filter, table, (h, w) = filter, filter.table, filter.grid
        rows, columns = (torch.arange(n, device=table.device).double() for n in (h, w))
        some = columns[: w // 2 + 1]
        at = 2 * math.pi / w * some[:, None] * columns
        across = torch.cat([at.cos(), -at.sin()]) / w**0.5
        at = 2 * math.pi / h * rows[:, None] * rows
        turn = torch.stack([at.cos(), at.sin(), -at.sin(), at.cos()]).view(2, 2, h, h) / h**0.5
        # Frequencies that the real transform leaves out are conjugates of those between.
        twice = torch.where((some == 0) | (2 * some == w), 1.0, 2.0)[:, None, None]
        factors = table.unflatten(2, (-1, 2)) * twice
        self.register_buffer("across", across.to(table.dtype))
        self.register_buffer("down", turn.permute(0, 2, 3, 1).reshape(2 * h, 2 * h).to(table.dtype))
        self.register_buffer("factors", factors.permute(3, 0, 1, 2).to(table.dtype).contiguous())

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        b, h, w, c = x.shape
        if (h, w) != self.filter.grid:
            return self.filter(x)
        across, down, (real, imaginary) = (
            part.to(x.dtype) for part in (self.across, self.down, self.factors)
        )
        seen = (across @ x).view(b, 2 * h, -1)  # rows of the map, real and imaginary parts
        re, im = (down @ seen).view(b, 2, h, -1, c).unbind(1)
        seen = torch.stack([re * real - im * imaginary, re * imaginary + im * real], 1)
        return across.mT @ (down.mT @ seen.view(b, 2 * h, -1)).view(b, h, -1, c)


class GlobalLocal(nn.Module):
    """Half of the channels filtered 3x3, half as wide as the map, interleaved, between norms:
    (B, h, w, D) to the same."""

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(
                f"a recursion of {dim} channels has no two halves for a global filter: expected a "
                "dim whose smallest slice is even"
            )
        self.pre_norm, self.post_norm = Norm(dim), Norm(dim)
        self.local = Conv(dim // 2, dim // 2, 3, padding=1, groups=dim // 2, bias=False)
        self.wide = GlobalFilter(dim // 2, grid)

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        near, far = self.pre_norm(x).chunk(2, -1)
        exact = torch.promote_types(x.dtype, torch.float32)
        far = self.wide(far.to(exact)).to(x.dtype)
        return self.post_norm(torch.stack([self.local(near), far], -1).flatten(-2))


class GatedConv(nn.Module):
    """g^n convolution: (B, h, w, C) to the same. A narrow slice of the input is multiplied by a
    slice of the filtered rest and widened, `order` times."""

    def __init__(self, dim: int, order: int, kernel: int, grid: Grid) -> None:
        super().__init__()
        if kernel and kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}: expected an odd one, or 0 for a global filter")
        self.widths = widths(dim, order)
        total = sum(self.widths)
        self.gate, self.rest = Linear(dim, self.widths[0]), Linear(dim, total)
        self.filter = (
            Conv(total, total, kernel, padding=kernel // 2, groups=total)
            if kernel
            else GlobalLocal(total, grid)
        )
        self.scale = SCALE
        self.gates = nn.ModuleList(Linear(*pair) for pair in pairwise(self.widths))
        self.proj = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        filtered = self.filter(self.rest(x))
        if self.scale != 1:
            filtered = filtered.mul_(self.scale)
        first, *others = filtered.split(self.widths, -1)
        y = self.gate(x) * first
        for gate, other in zip(self.gates, others, strict=True):
            y = gate(y) * other
        return self.proj(y)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def deployed(self) -> GatedConv:
        """Move the scale into the filter's last affine map."""
        last = self.filter.post_norm if isinstance(self.filter, GlobalLocal) else self.filter
        last.weight, last.bias = frozen(last.weight * self.scale), frozen(last.bias * self.scale)  # pyright: ignore[reportOperatorIssue]
        self.scale = 1
        return self


class Stem(nn.Sequential):
    """Patches and LayerNorm: (B, channels, H, W) to (B, h, w, C), sizes rounded down."""

    def __init__(self, config: Config) -> None:
        c = config
        super().__init__(Conv(c.channels, c.dim, c.patch, c.patch), Norm(c.dim))
        self.config = config

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        check_image(image, self.config, "hornet")
        check_size(replace(self.config, image=(image.shape[2], image.shape[3])))
        return super().forward(image.permute(0, 2, 3, 1))


def check_size(config: Config) -> None:
    """Raise ValueError where the last stage would have no position."""
    stride = config.patch * 2 ** (len(config.depths) - 1)
    if min(config.image) < stride:
        h, w = config.image
        raise ValueError(
            f"image is {h}x{w}; a hornet of {len(config.depths)} stages needs {stride} pixels each "
            f"way: take a smaller patch than {config.patch}, fewer stages or a larger image"
        )


class HorNet(Pyramid):
    """Patches, stages of gated convolutions with 2x2 convolutions between, mean, norm, linear."""

    def __init__(self, config: Config) -> None:
        c = config
        if not len(c.depths) == len(c.orders) == len(c.kernels):
            raise ValueError(
                f"depths {c.depths}, orders {c.orders} and kernels {c.kernels} differ in length: "
                "one each a stage"
            )
        check_size(config)
        rates = iter(rising(c.drop_path, sum(c.depths)))
        dims, stages = [c.dim * 2**i for i in range(len(c.depths))], []
        for i, (dim, grid) in enumerate(zip(dims, grids(config), strict=True)):
            mixers = [GatedConv(dim, c.orders[i], c.kernels[i], grid) for _ in range(c.depths[i])]
            blocks = [
                Block(dim, m, Mlp(dim, 4 * dim), norm=Norm, scale=c.scale, drop_path=next(rates))
                for m in mixers
            ]
            down = nn.Sequential(Norm(dims[i - 1]), Conv(dims[i - 1], dim, 2, 2))
            stages.append(Stage(down if i else nn.Identity(), blocks))
        super().__init__(
            config,
            stem=Stem(config),
            stages=stages,
            norm=nn.Identity(),
            pool=nn.Sequential(Mean(), Norm(dims[-1])),
            head=linear_head(dims[-1], c.classes),
            levels=[Level(c.patch * 2**i, dim) for i, dim in enumerate(dims)],
        )
        trunc_normal_linear(self)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.trunc_normal_(m.weight, std=0.02)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)


ATTENDS = False  # no part of it has weights that sum to one
MODEL = HorNet
