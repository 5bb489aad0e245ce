"""Inverted bottlenecks with squeeze-and-excitation, and convolutions padded as asked.

Sandler et al., "MobileNetV2", CVPR 2018, arXiv 1801.04381; Hu et al., "Squeeze-and-Excitation
Networks", CVPR 2018, arXiv 1709.01507; pre-normed as in CoAtNet, Dai et al., NeurIPS 2021, arXiv
2106.04803, and MaxViT.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, affine, channels_first, channels_last, folded
from vitrail.layers.linear import Linear, linear
from vitrail.layers.residual import DropPath

Pads = Callable[[int, int, int], tuple[int, int]]


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding of TensorFlow's SAME: ceil(size / stride) positions, the smaller half of
    the zeros first.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def symmetric(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding of PyTorch's habit: half a kernel of zeros on either side."""
    return kernel // 2, kernel // 2


class PaddedConv2d(Conv2d):
    """Conv2d with the padding that `pads(size, kernel, stride)` says: before, and at most one
    more after; (B, C, H, W) to (B, C', H', W').

    Where one more is needed after, a line of zeros is put before the *kernel* and the padding is
    even: the same sums, without a copy of the map.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        kernel: int,
        stride: int = 1,
        *,
        pads: Pads = same,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(dim_in, dim, kernel, stride, groups=groups, bias=bias)
        self.pads = pads

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        if self._keeps(x):
            return super().forward(x)
        weight, padding = self._even(x)
        return F.conv2d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _even(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the kernel, and the padding of either side, for a map of this size."""
        (top, below), (left, right) = (
            self.pads(size, kernel, stride)
            for size, kernel, stride in zip(
                x.shape[2:], self.weight.shape[2:], self.stride, strict=True
            )
        )
        if (top, left) == (below, right):
            return self.weight, (top, left)
        return F.pad(self.weight, (right - left, 0, below - top, 0)), (below, right)


class Excitation(nn.Module):
    """What to multiply each channel by, told by their means: (B, H, W, C) to (B, 1, 1, C)."""

    def __init__(self, dim: int, hidden: int, *, act: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, hidden), Linear(hidden, dim)
        self.act = nn.SiLU() if act is None else act

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b 1 1 c"]:
        means = x.mean((1, 2))
        return self.fc2(self.fc1.then(means, self.act)).sigmoid()[:, None, None]


class MBConv(nn.Module):
    """x + a branch: norm, 1x1 to `expansion` times the width, depthwise 3x3, excitation, 1x1
    back; (B, H, W, C) to (B, H', W', C').

    The first two convolutions have a BatchNorm and `act` behind them; `norm` makes a BatchNorm2d
    of so many channels, with the eps and momentum of the paper. The depthwise convolution has
    the stride, padded as `pads` says. Widths inside are multiples of `dim`, the width *behind*
    the block: `expansion` of the depthwise convolution, `squeeze` of the excitation. `thin` says
    which positions of the normed map enter the branch, all unless given. `shortcut` maps x to
    what the branch is added to: of stride and width as the branch, identity unless given.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        *,
        stride: int = 1,
        expansion: int = 4,
        squeeze: float = 0.25,
        norm: Callable[[int], nn.BatchNorm2d] = nn.BatchNorm2d,
        act: nn.Module | None = None,
        pads: Pads = symmetric,
        thin: nn.Module | None = None,
        shortcut: nn.Module | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = expansion * dim
        self.norm = norm(dim_in)
        self.thin = nn.Identity() if thin is None else thin
        self.expand, self.norm1 = Linear(dim_in, hidden, bias=False), norm(hidden)
        self.depthwise = PaddedConv2d(
            hidden, hidden, 3, stride, pads=pads, groups=hidden, bias=False
        )
        self.norm2 = norm(hidden)
        self.excite = Excitation(hidden, int(squeeze * dim))
        self.project = Linear(hidden, dim)
        self.act = nn.GELU() if act is None else act
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        y = self.expand(self.thin(channels_last(self.norm(channels_first(x)))))
        y = self.depthwise(self.act(self.norm1(channels_first(y))))
        return self._leave(x, channels_last(self.act(self.norm2(y))))

    def deployed(self) -> nn.Module:
        """Return the block without BatchNorms, with activations in the
        passes of what they follow.
        """
        return _Deployed(self)

    def _leave(self, x: Tensor, y: Tensor) -> Tensor:
        gate = self.excite(y)
        y = y * gate if torch.is_grad_enabled() else y.mul_(gate)  # nobody else holds y
        return self.shortcut(x) + self.drop_path(self.project(y))


class _Deployed(MBConv):
    """What an MBConv computes in eval mode.

    Its first BatchNorm folds although a convolution follows: a 1x1 has no padding, whose zeros
    would escape the shift.
    """

    def __init__(self, whole: MBConv) -> None:
        nn.Module.__init__(self)
        (scale, shift), (scale1, shift1) = affine(whole.norm), affine(whole.norm1)
        weight = whole.expand.weight * scale1[:, None]
        self.expand = linear(weight * scale, weight @ shift + shift1)
        self.depthwise = folded(whole.depthwise, whole.norm2)
        self.excite, self.project, self.act = whole.excite, whole.project, whole.act
        self.thin, self.shortcut, self.drop_path = whole.thin, whole.shortcut, whole.drop_path

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        y = channels_first(self.expand.then(self.thin(x), self.act))
        return self._leave(x, channels_last(self.depthwise.then(y, self.act)))  # pyright: ignore[reportCallIssue]

    def deployed(self) -> nn.Module:
        """Return itself."""
        return self
