"""Convolutions of signs: inputs, and where wished weights, are -1, 0 or 1.

Courbariaux et al., 2016, arXiv 1602.02830; weights scaled by their mean: Rastegari et al.,
"XNOR-Net", ECCV 2016, arXiv 1603.05279; learned scales: Bulat and Tzimiropoulos, "XNOR-Net++", BMVC
2019, arXiv 1909.13863.

What a binary convolution sums are small whole numbers, which every format of arithmetic adds
without error, so the deployed form may use another and still be equal bit by bit. Which one was
measured by `bench/bats.py` (batch 1, one thread of an EPYC with VNNI, the maps of BATS). Against
signs in float32 a layer of bytes takes 0.44 to 0.5 of the time where it is 1x1, 0.73 to 1.02 where
it is grouped 3x3 or 5x5. Bits (exclusive or, then `numpy.bitwise_count`) take 1.1 to 1.2 of it, 2.2
to 2.6 times as long as bytes: numpy writes the counts of every word to memory, where a kernel would
keep them in registers. So bytes compute, and bits serve where they do, on disk: `pack`, `unpack`.
A threshold in place of the BatchNorm before the sign would still be one pass over the map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from vitrail.layers.cache import Derived
from vitrail.layers.conv import Conv2d, channels_first, rescaled


class _Sign(torch.autograd.Function):
    """The sign, whose gradient is that of x clipped to (-1, 1)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() < 1)


def sign(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Return -1, 0 or 1; the gradient passes straight through where -1 <
    x < 1, and is 0 elsewhere.
    """
    return _Sign.apply(x) if torch.is_grad_enabled() and x.requires_grad else x.sign()  # pyright: ignore[reportReturnType]


class Real(nn.Module):
    """Weights (C', C, k, k) as they are, with a gain of one: the first stage of a training."""

    whole = False

    def forward(self, weight: Float[Tensor, "o i k l"]) -> tuple[Tensor, Tensor | None]:
        return weight, None


class Plain(nn.Module):
    """Signs of the weights (C', C, k, k), with a gain of one."""

    whole = True

    def forward(self, weight: Float[Tensor, "o i k l"]) -> tuple[Tensor, Tensor | None]:
        return sign(weight), None


class Xnor(nn.Module):
    """Signs of the weights (C', C, k, k), and as gain (C',) the mean of their sizes.

    If `centred`, the mean over input channels is taken off first.
    """

    whole = True

    def __init__(self, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred

    def forward(self, weight: Float[Tensor, "o i k l"]) -> tuple[Tensor, Tensor | None]:
        if self.centred:
            weight = weight - weight.mean(1, keepdim=True)
        return sign(weight), weight.abs().mean((1, 2, 3))


class BinaryConv2d(nn.Conv2d):
    """A convolution of signs, times a learned scale: (B, C, H, W) to (B, C', H', W').

    `binariser` makes what is summed with the signs, and a gain, from the weights. Zeros are padded
    behind the sign, so a border adds nothing. There is no bias.
    """

    def __init__(self, *sizes: Any, binariser: nn.Module, **geometry: Any) -> None:
        super().__init__(*sizes, bias=False, **geometry)
        self.binariser = binariser
        self.alpha = nn.Parameter(torch.ones(self.out_channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, gain = self.binariser(self.weight)
        scale = self.alpha if gain is None else self.alpha * gain
        return self._conv_forward(sign(x), weight, None) * scale[:, None, None]

    def deployed(self) -> nn.Module:
        """Return products of bytes if the weights are signs, else a real convolution of signs."""
        if self.binariser.whole:
            return ByteConv2d(self)
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding)
        real = Conv2d(*sizes, self.dilation, self.groups, bias=False, device="meta")  # pyright: ignore[reportArgumentType]
        real.weight = self.weight
        return nn.Sequential(Sign(), rescaled(real, self.alpha))


class Sign(nn.Module):
    """The sign, on any shape."""

    def forward(self, x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return sign(x)


class ByteConv2d(Derived):
    """What a BinaryConv2d computes, without gradients, its weights kept as bytes.

    In float32 on a CPU that multiplies bytes, inputs are bytes too: a 1x1 layer is a product of
    matrices, others a convolution of signs plus 1, where oneDNN takes the 1 off again and pads
    with what then is nothing. Elsewhere it is a convolution of floating-point numbers, with the
    same result.
    """

    signs: Int8[Tensor, "o i k l"]
    scale: Float[Tensor, "o"]
    room = 4

    def __init__(self, whole: BinaryConv2d) -> None:
        super().__init__()
        signs, gain = whole.binariser(whole.weight)
        scale = whole.alpha if gain is None else whole.alpha * gain
        self.register_buffer("signs", signs.detach().to(torch.int8))
        self.register_buffer("scale", scale.detach().clone())
        padding = [int(p) for p in whole.padding]
        self.geometry = (list(whole.stride), padding, list(whole.dilation))
        self.groups = whole.groups
        self.matrix = signs[0, 0].numel() == 1 and self.groups == 1 and whole.stride == (1, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        x = x.sign()
        if self._in_bytes(x):
            x = x.to(torch.int8)
            return self._multiplied(x) if self.matrix else self._convolved(x)
        stride, padding, dilation = self.geometry
        y = F.conv2d(x, self.signs.to(x.dtype), None, stride, padding, dilation, self.groups)
        return y * self.scale[:, None, None]

    def _sources(self) -> tuple[Tensor, Tensor]:
        return self.signs, self.scale

    def _in_bytes(self, x: Tensor) -> bool:
        return (
            BYTES
            and not torch.compiler.is_compiling()
            and type(x) is Tensor
            and x.device.type == self.signs.device.type == "cpu"
            and x.dtype == self.scale.dtype == torch.float32
            and not self.signs.is_inference()
            and not torch.is_autocast_enabled("cpu")
        )

    def _multiplied(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = torch._int_mm(x.permute(0, 2, 3, 1).reshape(-1, c), self.signs.view(-1, c).t())  # pyright: ignore
        return channels_first(y.float().mul_(self.scale).view(b, h, w, -1))

    def _convolved(self, x: Tensor) -> Tensor:
        onednn, geometry = torch.ops.onednn, (*self.geometry, self.groups)
        pack, shape = onednn.qconv_prepack, list(x.shape)
        packed = self._kept_for(
            x.shape, lambda: pack(self.signs, self.scale, 1.0, 1, *geometry, shape)
        )
        zeros = torch.zeros(len(self.scale), dtype=torch.int32)
        return onednn.qconv2d_pointwise(
            x.add_(1).view(torch.uint8), 1.0, 1, packed, self.scale, zeros, None,
            *geometry, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip


class Straight(nn.Module):
    """A BatchNorm in eval mode, on channels-first views (B, C, H, W), bit by bit.

    torch multiplies and adds with one rounding, here and in the shift; so does this, and no sign
    behind it differs.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = torch.addcmul(norm.bias, norm.running_mean, scale, value=-1)
        self.scale = nn.Parameter(scale.detach()[:, None, None], False)
        self.shift = nn.Parameter(shift.detach()[:, None, None], False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return torch.addcmul(self.shift, x, self.scale)


def _bytes_are_fast() -> bool:
    """Return whether this processor multiplies bytes, and torch was built to ask it to."""
    able = torch.cpu.get_capabilities()
    vnni = any(able.get(name) for name in ("avx512_vnni", "avx_vnni"))
    return bool(vnni and torch.backends.mkldnn.is_available())


BYTES = _bytes_are_fast()

Make = Callable[..., nn.Module]
BINARISERS: dict[str, Callable[[], nn.Module]] = {
    "inputs": Real,
    "sign": Plain,
    "xnor": Xnor,
    "xnor_centred": lambda: Xnor(centred=True),
}


def convolution(binary: str) -> Make:
    """Return what makes convolutions without bias: "none" real ones, else a name of `BINARISERS`.

    Raises ValueError for any other name.
    """
    if binary == "none":
        return lambda *sizes, **geometry: Conv2d(*sizes, bias=False, **geometry)
    if binary not in BINARISERS:
        known = ", ".join(["none", *BINARISERS])
        raise ValueError(f"binary is {binary!r}; expected one of {known}")
    return lambda *sizes, **geometry: BinaryConv2d(
        *sizes, binariser=BINARISERS[binary](), **geometry
    )


def pack(weight: Float[Tensor, "*s"]) -> UInt8[Tensor, "n"]:
    """Pack the signs of weights as bits, 8 in a byte. Raises ValueError for a weight that is 0."""
    if bool((weight == 0).any()):
        raise ValueError("a weight is exactly 0, which has no sign: store these weights unpacked")
    return torch.from_numpy(np.packbits(weight.detach().cpu().numpy().reshape(-1) > 0))


def unpack(bits: UInt8[Tensor, "n"], shape: tuple[int, ...]) -> Float[Tensor, "*s"]:
    """Return the weights of that shape, -1 or 1, that `pack` stored. Raises ValueError if the
    number of bytes is another.
    """
    count = int(np.prod(shape))
    if bits.dtype != torch.uint8 or bits.numel() != -(-count // 8):
        raise ValueError(
            f"{bits.numel()} values of {bits.dtype} are given for {shape}; "
            f"its {count} signs take {-(-count // 8)} bytes"
        )
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)  # the first is highest
    signs = (bits[:, None] >> places & 1).flatten()[:count].reshape(shape)
    return signs.float() * 2 - 1
