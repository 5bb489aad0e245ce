"""Convolutions on channels-last maps, and affine layers married to a BatchNorm.

Maps are (B, H, W, C) everywhere. A convolution sees them as (B, C, H, W) through a permuted
view, which in memory is `torch.channels_last`: no element moves, and it is the format in
which oneDNN and cuDNN are fastest.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.cache import Packed
from vitrail.layers.linear import Linear, frozen, fused, linear

# float32 values in an AVX2 register.
LANES = 8
# oneDNN's bfloat16 kernel for channels-last depthwise convolutions never ends where the kernel is
# at least so wide and the channels are at most so many (seen with torch 2.15 on AVX512-BF16).
WIDE, NARROW = 15, 16


def channels_first(x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b c h w"]:
    """Return the same memory, seen as (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w c"]:
    """Return the same memory, seen as (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def _low(x: Tensor) -> torch.dtype | None:
    """Return bfloat16 where a convolution of x on the CPU would compute in it, else None."""
    if x.device.type != "cpu":
        return None
    auto = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if auto and x.is_floating_point() else x.dtype
    return dtype if dtype == torch.bfloat16 else None


class Conv2d(Packed, nn.Conv2d):
    """nn.Conv2d (same parameters, same names) that keeps its kernel in oneDNN's own format.

    Reordering the kernel at every call costs up to a third of a ResNet-50 at batch 1. Without
    gradients, in float32 on a CPU; otherwise nn.Conv2d to the letter.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._packed(x, "none", "") if self._keeps(x) else super().forward(x)

    def then(self, x: Float[Tensor, "b c h w"], act: nn.Module) -> Float[Tensor, "b c2 h2 w2"]:
        """Return act(conv(x)); in one pass over the result where oneDNN knows the activation."""
        name, form = fused(act)
        return self._packed(x, name, form) if name and self._keeps(x) else act(self(x))

    def joined(
        self, x: Float[Tensor, "b c h w"], other: Float[Tensor, "b c2 h2 w2"], act: nn.Module
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Return act(conv(x) + other), as `then`."""
        name, form = fused(act)
        if not (name and self._keeps(x)) or other.dtype != x.dtype:
            return act(self(x) + other)
        weight, geometry = self._prepared(x)
        convolve = torch.ops.mkldnn._convolution_pointwise.binary
        return convolve(x, other, weight, self.bias, *geometry, "add", 1.0, name, [], form)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # oneDNN's gradient of a strided 1x1 kernel for AVX2 writes beyond its buffer where the
        # map has fewer channels than a register (uxlfoundation/oneDNN#6035): wrong gradients
        # with several threads, a crash with one. Thinned out first, the map needs no stride.
        if self.kernel_size == (1, 1) and self.stride != (1, 1) and self._narrow(weight):
            down, across = self.stride
            return F.conv2d(input[..., ::down, ::across], weight, bias, groups=self.groups)
        low = _low(input)
        if low is not None and self._endless():
            with torch.autocast(input.device.type, enabled=False):
                biased = None if bias is None else bias.float()
                return super()._conv_forward(input.float(), weight.float(), biased).to(low)
        return super()._conv_forward(input, weight, bias)

    def _endless(self) -> bool:
        """Return whether oneDNN may never end with this kernel in bfloat16."""
        depthwise = self.groups == self.in_channels
        return depthwise and self.in_channels <= NARROW and self.kernel_size[1] >= WIDE

    def _narrow(self, weight: Tensor) -> bool:
        unpadded = self.padding in ((0, 0), "valid")
        learns = torch.is_grad_enabled() and weight.requires_grad
        return unpadded and learns and weight.shape[1] < LANES

    def _keeps(self, x: Tensor) -> bool:
        simple = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return simple and super()._keeps(x)

    def _packed(self, x: Tensor, act: str, form: str) -> Tensor:
        weight, geometry = self._prepared(x)
        convolve = torch.ops.mkldnn._convolution_pointwise
        return convolve(x, weight, self.bias, *geometry, act, [], form)

    def _prepared(self, x: Tensor) -> tuple[Tensor, tuple]:
        """Return the kernel in oneDNN's format for an input of this shape, and the geometry."""
        kernel, padding = self._even(x)
        geometry = (padding, self.stride, self.dilation, self.groups)
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        return self._kept_for(x.shape, lambda: reorder(kernel, *geometry, x.shape)), geometry

    def _even(self, x: Tensor) -> tuple[Tensor, tuple[int, int] | str]:
        """Return the kernel and the padding of either side."""
        return self.weight, self.padding  # pyright: ignore[reportReturnType]


class Conv(Conv2d):
    """Conv2d that maps (B, H, W, C) to (B, H', W', C')."""

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        return channels_last(super().forward(channels_first(x)))

    def then(self, x: Float[Tensor, "b h w c"], act: nn.Module) -> Float[Tensor, "b h2 w2 c2"]:
        """Return act(conv(x)), in two passes."""
        return act(self(x))

    def joined(
        self, x: Float[Tensor, "b h w c"], other: Float[Tensor, "b h2 w2 c2"], act: nn.Module
    ) -> Float[Tensor, "b h2 w2 c2"]:
        """Return act(conv(x) + other), in three passes."""
        return act(self(x) + other)


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

    def then(self, x: Float[Tensor, "b c h w"], act: nn.Module) -> Float[Tensor, "b c2 h2 w2"]:
        """Return act(norm(conv(x))), as `Conv2d.then`."""
        return act(self(x))

    def joined(
        self, x: Float[Tensor, "b c h w"], other: Float[Tensor, "b c2 h2 w2"], act: nn.Module
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Return act(norm(conv(x)) + other), as `Conv2d.joined`."""
        return act(self(x) + other)

    def deployed(self) -> nn.Conv2d:
        """Return one convolution with bias that computes the same in eval mode."""
        return folded(self.conv, self.norm)


class LinearNorm(nn.Module):
    """Linear without bias, then BatchNorm over all tokens: (B, N, C) to (B, N, C')."""

    def __init__(self, dim_in: int, dim: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = Linear(dim_in, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, x: Float[Tensor, "*s c"]) -> Float[Tensor, "*s c2"]:
        x = self.linear(x)
        return self.norm(x.flatten(0, -2)).view(x.shape)

    def then(self, x: Float[Tensor, "*s c"], act: nn.Module) -> Float[Tensor, "*s c2"]:
        """Return act(norm(linear(x))), as `Linear.then`."""
        return act(self(x))

    def deployed(self) -> nn.Module:
        """Return one linear layer with bias that computes the same in eval mode."""
        scale, shift = affine(self.norm)
        return linear(self.linear.weight * scale[:, None], shift)


class NormLinear(nn.Module):
    """BatchNorm, then Linear: (B, C) to (B, classes), the heads of LeViT."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.linear = Linear(dim, classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b k"]:
        return self.linear(self.norm(x))

    def deployed(self) -> nn.Linear:
        """Return one linear layer that computes the same in eval mode."""
        scale, shift = affine(self.norm)
        weight = self.linear.weight
        return linear(weight * scale, weight @ shift + self.linear.bias)


class Affine(nn.Module):
    """A BatchNorm in eval mode, on channels-first views (B, C, H, W)."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale, shift = affine(norm)
        self.scale, self.shift = frozen(scale[:, None, None]), frozen(shift[:, None, None])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.addcmul(self.shift, x, self.scale)


def affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm in eval mode, each (C,): norm(x) = x * scale + shift."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution with bias, in channels-last memory, for norm(conv(x)) in eval mode."""
    return rescaled(conv, *affine(norm))


def rescaled(
    conv: nn.Conv2d, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"] | None = None
) -> nn.Conv2d:
    """Return one convolution without gradients, in channels-last memory,
    for conv(x) * scale + shift.
    """
    made = copy.copy(conv)  # its geometry; parameters are replaced below
    made._parameters = dict(conv._parameters)
    weight = conv.weight * scale[:, None, None, None]
    made.weight = frozen(weight.contiguous(memory_format=torch.channels_last))
    if conv.bias is not None:
        shift = conv.bias * scale if shift is None else shift + conv.bias * scale
    if shift is not None:
        made.bias = frozen(shift)
    return made
