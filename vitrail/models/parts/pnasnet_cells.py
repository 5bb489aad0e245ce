"""PNASNet's operations, and the cell that a genotype makes of them.

All work on channels-first views. Operations that begin with a ReLU are given a rectified map, so
that those of one state share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import (
    Conv2d,
    ConvNorm,
    affine,
    channels_first,
    channels_last,
    folded,
    rescaled,
)
from vitrail.layers.genotype import Genotype
from vitrail.layers.mbconv import PaddedConv2d, Pads
from vitrail.layers.residual import DropPath

EPS = 1e-3  # of every BatchNorm


class Pointwise(ConvNorm):
    """1x1 convolution and BatchNorm: (B, C, h, w) to (B, C', h', w')."""

    def __init__(self, dim_in: int, dim: int, stride: int = 1) -> None:
        super().__init__(dim_in, dim, 1, stride=stride)
        self.norm.eps = EPS


class Factorised(nn.Module):
    """Halves a rectified map with two 1x1 convolutions, one on even pixels and one on odd ones,
    then BatchNorm: (B, C, h, w) to (B, C', ceil(h/2), ceil(w/2))."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(dim_in, dim // 2, 1, bias=False)
        self.conv2 = Conv2d(dim_in, dim - dim // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(dim, eps=EPS)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        h, w = x.shape[2:]
        odd = F.pad(x[:, :, 1::2, 1::2], (0, w % 2, 0, h % 2))
        halves = (self.conv1, x[:, :, ::2, ::2]), (self.conv2, odd)
        # Only a quarter of the map is read: brought together, it is a plain 1x1.
        form = torch.channels_last
        return self.norm(torch.cat([f(y.contiguous(memory_format=form)) for f, y in halves], 1))

    def deployed(self) -> nn.Module:
        """Fold BatchNorm into the two convolutions."""
        scale, shift = affine(self.norm)  # pyright: ignore[reportArgumentType]
        half = len(self.conv1.weight)
        self.conv1 = rescaled(self.conv1, scale[:half], shift[:half])
        self.conv2 = rescaled(self.conv2, scale[half:], shift[half:])
        self.norm = nn.Identity()
        return self


class Separable(nn.Module):
    """Depthwise and 1x1 convolution with BatchNorm, ReLU, and the same again, on a rectified map:
    (B, C, h, w) to (B, C', h', w'). The first depthwise has the stride, the first 1x1 the width."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int, pads: Pads) -> None:
        super().__init__()
        self.depth1 = PaddedConv2d(
            dim_in, dim_in, kernel, stride, pads=pads, groups=dim_in, bias=False
        )
        self.point1 = Pointwise(dim_in, dim)
        self.depth2 = PaddedConv2d(dim, dim, kernel, pads=pads, groups=dim, bias=False)
        self.point2 = Pointwise(dim, dim)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.point2(self.depth2(self.point1.then(self.depth1(x), self.act)))


class Dense(nn.Module):
    """Dense convolutions, BatchNorm behind each and ReLU between, on a rectified map:
    (B, C, h, w) to (B, C', h', w'). An axis along which a kernel is long has the stride."""

    def __init__(
        self,
        dim_in: int,
        dim: int,
        kernels: Sequence[tuple[int, int]],
        stride: int,
        pads: Pads,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.pads = pads
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for kernel in kernels:
            steps = tuple(stride if k > 1 else 1 for k in kernel)
            self.convs.append(
                Conv2d(dim_in, dim, kernel, steps, dilation=dilation, bias=False)  # pyright: ignore
            )
            self.norms.append(nn.BatchNorm2d(dim, eps=EPS))
            dim_in = dim

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        for j, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(self._bordered(F.relu(x) if j else x, conv)))
        return x

    def _bordered(self, x: Tensor, conv: nn.Module) -> Tensor:
        borders: list[int] = []
        for axis in (1, 0):
            reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1) + 1  # pyright: ignore
            borders += self.pads(x.shape[2 + axis], reach, conv.stride[axis])  # pyright: ignore
        return F.pad(x, borders)

    def deployed(self) -> nn.Module:
        """Fold BatchNorms into the convolutions."""
        for j, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                self.convs[j], self.norms[j] = folded(conv, norm), nn.Identity()
        return self


class Pool(nn.Module):
    """3x3 pool, and a 1x1 convolution with BatchNorm where the width changes: (B, C, h, w) to
    (B, C', h', w')."""

    def __init__(self, kind: str, dim_in: int, dim: int, stride: int, pads: Pads) -> None:
        super().__init__()
        self.kind, self.stride, self.pads = kind, stride, pads
        self.project = nn.Identity() if dim_in == dim else Pointwise(dim_in, dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.project(self.pooled(x))

    def pooled(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Return the pool alone, which operations on one state may share."""
        (top, below), (left, right) = (self.pads(side, 3, self.stride) for side in x.shape[2:])
        # One line more at the end is a last window that is cut off: no padded copy.
        window = {"padding": (top, left), "ceil_mode": (top, left) != (below, right)}
        if self.kind == "max":
            return F.max_pool2d(x, 3, self.stride, **window)
        return F.avg_pool2d(x, 3, self.stride, **window, count_include_pad=False)


OPERATIONS = (
    "sep_3x3", "sep_5x5", "sep_7x7", "1x7_7x1", "dil_3x3", "avg_3x3", "max_3x3", "identity",
)  # fmt: skip


def operation(name: str, dim_in: int, dim: int, stride: int, pads: Pads) -> nn.Module:
    """Make one of OPERATIONS, (B, C, h, w) to (B, C', h', w'). All but `Pool` and nn.Identity are
    given a rectified map.
    """
    if name.startswith("sep"):
        return Separable(dim_in, dim, int(name[-1]), stride, pads)
    if name == "1x7_7x1":
        return Dense(dim_in, dim, ((1, 7), (7, 1)), stride, pads)
    if name == "dil_3x3":
        return Dense(dim_in, dim, ((3, 3),), stride, pads, dilation=2)
    if name == "identity":
        same_shape = stride == 1 and dim_in == dim
        return nn.Identity() if same_shape else Pointwise(dim_in, dim, stride)
    return Pool(name[:3], dim_in, dim, stride, pads)


class Cell(nn.Module):
    """The genotype as modules: the previous cell's output x (B, h, w, C) and the one before it to
    (B, h', w', nodes * dim), rectified.

    Both inputs are rectified. Where `left` is None the one before becomes state 0 as it is, of
    width `dim_before`.
    """

    def __init__(
        self,
        genotype: Genotype,
        dim: int,
        dims_in: tuple[int, int],
        left: nn.Module | None,
        *,
        concat: Sequence[int],
        pads: Pads,
        stride: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.genotype, self.concat = genotype, tuple(concat)
        read = {state for _, state in genotype}
        dim_x, dim_before = dims_in
        self.left = left if 0 in read else None
        self.right = Pointwise(dim_x, dim) if 1 in read else None
        self.ops = nn.ModuleList(
            operation(
                name,
                dim_before if left is None and state == 0 else dim,
                dim,
                stride if state < 2 else 1,
                pads,
            )
            for name, state in genotype
        )
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Float[Tensor, "b h w c"], before: Float[Tensor, "b h0 w0 c0"]
    ) -> Float[Tensor, "b h2 w2 c2"]:
        x, p = channels_first(x), channels_first(before)
        states = [
            p if self.left is None else self.left(p),
            x if self.right is None else self.right(x),
        ]
        shared: dict[tuple[str, int], Tensor] = {}
        for n in range(len(self.genotype) // 2):
            one, other = (self._outcome(2 * n + side, states, shared) for side in (0, 1))
            states.append(one + other)
        made = torch.cat([states[s] for s in self.concat], 1)
        return channels_last(F.relu_(made))

    def _outcome(
        self, k: int, states: list[Tensor], shared: dict[tuple[str, int], Tensor]
    ) -> Tensor:
        """Return what operation k makes of its state; rectified states and
        pools are kept in `shared`.
        """
        (name, state), op = self.genotype[k], self.ops[k]
        if isinstance(op, nn.Identity):
            return states[state]
        key = (name if isinstance(op, Pool) else "relu", state)
        if key not in shared:
            x = states[state]
            shared[key] = op.pooled(x) if isinstance(op, Pool) else F.relu(x)
        y = op.project(shared[key]) if isinstance(op, Pool) else op(shared[key])
        return y if name == "identity" else self.drop_path(y)
