"""The hybrids of ViT: a transformer that reads the map of a small ResNet instead of pixels.

Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; weights of Steiner et al. (AugReg), TMLR 2022,
arXiv 2106.10270. The ResNet is that of BiT: weight-standardised convolutions and GroupNorm, so
that no batch statistics are needed; of R+Ti/16 only its root is left, under patches of 8.

As in the authors' code, GroupNorm's eps is 1e-6 and a kernel is divided by its deviation plus
1e-5; timm has 1e-5 and the square root of variance plus eps, which moves logits by about 1e-4.
Padding is JAX's SAME: what is odd of it comes below and right. R+Ti/16 has one token for 32 x 32
pixels in spite of its name. Images need sides whose map the patch divides; with patches of 1 any
side will do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d
from vitrail.layers.linear import frozen
from vitrail.models import vit
from vitrail.models.names import vit_hybrid as names
from vitrail.models.trunk.backbone import HALF, Small, Variant, check_image
from vitrail.models.vit import PatchEmbed, ViT


@dataclass(frozen=True)
class Config(vit.Config):
    """Sizes of a ViT on a ResNet of `units` bottlenecks a stage; none leave its root alone.
    `root` is the width of the root, `patch` the patches on its last map."""

    units: tuple[int, ...] = ()
    root: int = 64
    patch: int = 1

    @property
    def stride(self) -> int:
        """Return the pixels of the image per token, down and across."""
        return reduction(self) * self.patch


def reduction(config: Config) -> int:
    """Return the pixels of the image per position of the ResNet's map."""
    return 4 * 2 ** max(0, len(config.units) - 1)


_TI = Config(patch=8)
_S = Config(dim=384, heads=6, hidden=1536, units=(2, 2, 2, 2))
_B = Config(dim=768, heads=12, hidden=3072)
_L = Config(dim=1024, depth=24, heads=16, hidden=4096, units=(3, 4, 6, 3))
_HUB = "hf-hub:timm/vit_{}.augreg_in21k_ft_in1k"
# Parameters and multiply-adds counted; accuracies as timm evaluates AugReg's weights, that of
# R50+B/16 as the first paper's repository does.
VARIANTS = {
    name: Variant(
        replace(config, image=(side, side)),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": _HUB.format(f"{hub}_{side}")} if hub else {},
    )
    for name, config, side, params_m, flops_g, top1, hub in [
        ("vit_r_ti16", _TI, 224, 6.34, 0.434, 71.80, "tiny_r_s16_p8"),
        ("vit_r_ti16_384", _TI, 384, 6.36, 1.33, 75.96, "tiny_r_s16_p8"),
        ("vit_r26_s32", _S, 224, 36.43, 3.46, 81.86, "small_r26_s32"),
        ("vit_r26_s32_384", _S, 384, 36.47, 10.3, 84.07, "small_r26_s32"),
        ("vit_r26_b32", replace(_B, units=(2, 2, 2, 2)), 224, 101.4, 6.71, None, None),
        ("vit_r50_b16_384", replace(_B, units=(3, 4, 9)), 384, 98.9, 67.2, 85.08, None),
        ("vit_r50_l32", _L, 224, 329.0, 19.4, 84.43, "large_r50_s32"),
        ("vit_r50_l32_384", _L, 384, 329.1, 57.1, 86.19, "large_r50_s32"),
    ]
}

SPACE = Small(
    Config(dim=64, depth=4, heads=2, hidden=128, pool="mean", position="sincos", root=32),
    {
        ("dim", "heads", "hidden"): ((64, 2, 128), (96, 3, 192), (128, 4, 256)),
        "depth": (2, 4),
        ("units", "patch"): (((), 1), ((), 2), ((1, 1), 1), ((1, 1, 1), 1)),
    },
)


TAKES = HALF  # unless a variant's reference says otherwise
NAMES = names.TABLES
POSITIONS = vit.POSITIONS


class SameConv2d(Conv2d):
    """A convolution under JAX's SAME padding: ceil(side / stride) positions, and what is odd of
    the padding comes below and right."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int = 1) -> None:
        even = stride == 1  # then both sides take as much
        super().__init__(dim_in, dim, kernel, stride, kernel // 2 if even else 0, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return super().forward(self._padded(x))

    def _padded(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1 or kernel == 1:
            return x
        edges: list[int] = []
        for side in x.shape[-2:]:
            total = max(0, (math.ceil(side / stride) - 1) * stride + kernel - side)
            edges = [total // 2, total - total // 2, *edges]
        return F.pad(x, edges)


class StandardConv2d(SameConv2d):
    """A convolution whose kernel has mean 0 and deviation 1 for every output channel: the
    weight less its mean, divided by its deviation plus 1e-5."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        x = self._padded(x)
        if not self._keeps(x):
            return self._conv_forward(x, self._standard(), None)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        reorder = torch.ops.mkldnn._reorder_convolution_weight
        weight = self._kept_for(x.shape, lambda: reorder(self._standard(), *geometry, x.shape))
        convolve = torch.ops.mkldnn._convolution_pointwise
        return convolve(x, weight, None, *geometry, "none", [], "")

    def deployed(self) -> nn.Module:
        """Return a plain convolution with the standardised kernel."""
        made = SameConv2d(*self.weight.shape[1::-1], self.kernel_size[0], self.stride[0])  # pyright: ignore[reportCallIssue]
        made.weight = frozen(self._standard())
        return made

    def _standard(self) -> Tensor:
        axes = (1, 2, 3)
        centred = self.weight - self.weight.mean(axes, keepdim=True)
        deviation = centred.square().mean(axes, keepdim=True).sqrt()
        return centred / (deviation + 1e-5)


def pooled(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Return the maxima of 3x3 at stride 2 under SAME padding: of an even side only the far edge is
    padded, which is what the ceiling mode does.
    """
    odd = [side % 2 for side in x.shape[-2:]]
    return F.max_pool2d(x, 3, 2, odd, ceil_mode=True)


def norm(dim: int) -> nn.GroupNorm:
    """Make a GroupNorm of 32 groups, or of 8 where 32 do not divide a narrow network's width."""
    return nn.GroupNorm(32 if dim % 32 == 0 else 8, dim, eps=1e-6)


class Shortcut(nn.Module):
    """A 1x1 convolution and a norm where a bottleneck changes width or stride."""

    def __init__(self, dim_in: int, dim: int, stride: int) -> None:
        super().__init__()
        self.conv, self.norm = StandardConv2d(dim_in, dim, 1, stride), norm(dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 of four times the width, each normed: (B, C, H, W) to (B, 4 dim, h, w)."""

    def __init__(self, dim_in: int, dim: int, stride: int, first: bool) -> None:
        super().__init__()
        self.conv1, self.norm1 = StandardConv2d(dim_in, dim, 1), norm(dim)
        self.conv2, self.norm2 = StandardConv2d(dim, dim, 3, stride), norm(dim)
        self.conv3, self.norm3 = StandardConv2d(dim, 4 * dim, 1), norm(4 * dim)
        nn.init.zeros_(self.norm3.weight)
        self.shortcut = Shortcut(dim_in, 4 * dim, stride) if first else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        y = self.norm1(self.conv1(x)).relu_()
        y = self.norm2(self.conv2(y)).relu_()
        return self.norm3(self.conv3(y)).add_(self.shortcut(x)).relu_()


class Trunk(nn.Module):
    """The ResNet's root, stride 4, and its stages: an image to (B, C, h, w)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.conv = StandardConv2d(config.channels, config.root, 7, 2)
        self.norm = norm(config.root)
        stages, before = [], config.root
        for s, count in enumerate(config.units):
            dim, units = config.root * 2**s, []
            for u in range(count):
                units.append(Bottleneck(before, dim, 2 if s and not u else 1, first=u == 0))
                before = 4 * dim
            stages.append(nn.Sequential(*units))
        self.stages, self.width = nn.Sequential(*stages), before

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b c h2 w2"]:
        x = self.norm(self.conv(image.contiguous(memory_format=torch.channels_last))).relu_()
        return self.stages(pooled(x))


class HybridEmbed(PatchEmbed):
    """Patches of the ResNet's map as tokens: an image to (B, token + h w, C)."""

    def __init__(self, config: Config) -> None:
        trunk = Trunk(config)
        super().__init__(config, trunk.width)
        self.trunk = trunk

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return tokens down and across an image of h x w pixels; ValueError unless they fit."""
        patch, ratio = self.config.patch, reduction(self.config)  # pyright: ignore[reportArgumentType]
        rows, columns = math.ceil(h / ratio), math.ceil(w / ratio)
        if rows % patch or columns % patch:
            raise ValueError(
                f"image is {h}x{w}; its map of {rows}x{columns} does not divide into patches of "
                f"{patch}: vit_hybrid needs multiples of {ratio * patch}"
            )
        return rows // patch, columns // patch

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        check_image(image, self.config, "vit_hybrid")
        self.grid(*image.shape[-2:])
        return self.trunk(image)


class HybridViT(ViT):
    """A ResNet, then a ViT on its map."""

    embedding_of: Any = HybridEmbed


MODEL = HybridViT
