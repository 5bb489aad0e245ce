"""Convolutions on channels-last maps, and affine layers married to a BatchNorm.

Maps are (B, H, W, C) everywhere. A convolution sees them as (B, C, H, W) through a permuted
view, which in memory is `torch.channels_last`: no element moves, and it is the format in
which oneDNN and cuDNN are fastest.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn


def channels_first(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """The same memory, seen as (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w c"]:
    """The same memory, seen as (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


class Conv2d(nn.Conv2d):
    """nn.Conv2d (same parameters, same names) that keeps its kernel in oneDNN's own format.

    On a CPU torch reorders the kernel at every call, which at batch 1 costs up to a third of
    a ResNet-50. Without gradients the reordered kernel is kept until the weight changes;
    otherwise, and on other devices and types, this is nn.Conv2d to the letter.

    Changes are seen by the weight's version and address. Fused optimizers raise no version:
    so a forward pass with gradients, and `train()` or `eval()`, forget the kept kernel too.
    Only a write through `weight.data` goes unseen: call `eval()` after one.
    """

    _kept: dict[tuple[int, ...], Tensor] | None = None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        if not self._keeps(x):
            if not torch.compiler.is_compiling():
                self._kept = None
            return super().forward(x)
        # The format that oneDNN chooses depends on the input's shape.
        key = (self.weight._version, self.weight.data_ptr(), *x.shape)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if self._kept is None or len(self._kept) >= 4 or next(iter(self._kept))[:2] != key[:2]:
            self._kept = {}
        if key not in self._kept:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self._kept[key] = reorder(self.weight, *geometry, x.shape)
        convolve = torch.ops.mkldnn._convolution_pointwise
        return convolve(x, self._kept[key], self.bias, *geometry, "none", [], "")

    def train(self, mode: bool = True) -> Conv2d:
        """As nn.Module's; forgets the kept kernel."""
        self._kept = None
        return super().train(mode)

    def _keeps(self, x: Tensor) -> bool:
        return (
            not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and x.device.type == self.weight.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and type(x) is Tensor
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
            and not self.weight.is_inference()
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.mkldnn.is_available()
        )

    def __getstate__(self) -> dict:
        return {k: v for k, v in super().__getstate__().items() if k != "_kept"}


class Conv(Conv2d):
    """Conv2d that maps (B, H, W, C) to (B, H', W', C')."""

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        return channels_last(super().forward(channels_first(x)))


class ConvNorm(nn.Module):
    """Convolution without bias, then BatchNorm: (B, C, H, W) to (B, C', H', W').

    It works on channels-first *views*, since its users chain several of them.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = Conv2d(dim_in, dim, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.norm(self.conv(x))

    def deployed(self) -> nn.Conv2d:
        """One convolution with bias that computes the same in eval mode."""
        return folded(self.conv, self.norm)


class LinearNorm(nn.Module):
    """Linear without bias, then BatchNorm over all tokens: (B, N, C) to (B, N, C')."""

    def __init__(self, dim_in: int, dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, x: Float[Tensor, "*s c"]) -> Float[Tensor, "*s c2"]:
        x = self.linear(x)
        return self.norm(x.flatten(0, -2)).view(x.shape)

    def deployed(self) -> nn.Module:
        """One linear layer with bias that computes the same in eval mode."""
        scale, shift = affine(self.norm)
        return linear(self.linear.weight * scale[:, None], shift)


class NormLinear(nn.Module):
    """BatchNorm, then Linear: (B, C) to (B, classes), the heads of LeViT."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.linear = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b k"]:
        return self.linear(self.norm(x))

    def deployed(self) -> nn.Linear:
        """One linear layer that computes the same in eval mode."""
        scale, shift = affine(self.norm)
        weight = self.linear.weight
        return linear(weight * scale, weight @ shift + self.linear.bias)


def affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm in eval mode, each (C,): norm(x) = x * scale + shift."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias, in channels-last memory, for norm(conv(x)) in eval mode."""
    scale, shift = affine(norm)
    made = copy.copy(conv)  # its geometry; parameters are replaced below
    made._parameters = dict(conv._parameters)
    weight = conv.weight * scale[:, None, None, None]
    made.weight = frozen(weight.contiguous(memory_format=torch.channels_last))
    made.bias = frozen(shift if conv.bias is None else shift + conv.bias * scale)
    return made


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An nn.Linear of the given weight (C', C) and bias (C',), without gradients."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = frozen(weight)
    if bias is not None:
        made.bias = frozen(bias)
    return made


def frozen(value: Tensor) -> nn.Parameter:
    """A parameter that takes no gradient."""
    return nn.Parameter(value.detach().clone(memory_format=torch.preserve_format), False)
