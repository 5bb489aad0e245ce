"""Views of a batch: random crops, flips and changes of colour, on the device of the training.

What is drawn belongs to an image and a step (`draws`), so that a view is the same after a resumed
stop and in any share of a batch. Operations are those of DINO (Caron et al., ICCV 2021, arXiv
2104.14294) with two differences: jitter has a fixed order, and hue is a rotation in YIQ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.objectives.parts.draws import between, uniform
from vitrail.training.objective import Step

_ASPECT = math.log(4 / 3)
_LIGHT = (0.299, 0.587, 0.114)
_DRAWN = 16  # numbers for each image and view
_SIGMA = (0.1, 2.0)  # of the blur, in pixels of a view of 224
_FULL = 224


@dataclass(frozen=True)
class View:
    """How one view of an image is made; probabilities but for `scale` and `jitter`.

    `scale` is the range of the crop's share of the area, `jitter` how far brightness, contrast,
    saturation and hue move, which happens with probability `jittered`.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jittered: float = 0.8
    grey: float = 0.2
    blur: float = 0.0
    solarise: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ConfigError(f"scale {self.scale} is not (low, high) within 0 to 1")
        for name in ("flip", "jittered", "grey", "blur", "solarise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not a probability")
        if min(self.jitter) < 0:
            raise ConfigError(f"jitter {self.jitter} is below 0: 0.4,0.4,0.2,0.1 is usual")


def make_view(pixels: Tensor, view: View, size: int | tuple[int, int], drawn: Tensor) -> Tensor:
    """Return a view (B, C, h, w) of pixels (B, C, H, W) in [0, 1]; `drawn` is of `draw_for`."""
    sides = (size, size) if isinstance(size, int) else size
    x = _cropped(pixels, view, sides, drawn)
    x = _jittered(x, view, drawn)
    light = _grey(x)
    x = _where(drawn[:, 11] < view.grey, light.expand_as(x), x)
    if view.blur:
        x = _where(drawn[:, 12] < view.blur, _blurred(x, between(drawn[:, 13], *_SIGMA)), x)
    return _where((drawn[:, 14] < view.solarise)[:, None] & (x.flatten(1) >= 0.5), 1 - x, x)


def draw_for(images: Tensor, step: Step, number: int) -> Tensor:
    """Return what view `number` of images (B,) draws in a step."""
    return uniform(images, step, 1000 + number, _DRAWN)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Choose per image (B,), or per value (B, C H W)."""
    shape = chosen.view_as(other) if chosen.ndim == 2 else chosen.view(-1, 1, 1, 1)
    return torch.where(shape, one, other)


def _cropped(pixels: Tensor, view: View, size: tuple[int, int], drawn: Tensor) -> Tensor:
    """Crop a random area and shape, flip it, and resize it bilinearly."""
    area, stretch = between(drawn[:, 0], *view.scale), between(drawn[:, 1], -_ASPECT, _ASPECT)
    height = (area.sqrt() * (-stretch / 2).exp()).clamp(max=1)
    width = (area.sqrt() * (stretch / 2).exp()).clamp(max=1)
    # In units of half an image, from its middle, as affine_grid has it.
    down = (1 - height) * (2 * drawn[:, 2] - 1)
    across = (1 - width) * (2 * drawn[:, 3] - 1)
    signs = torch.where(drawn[:, 4] < view.flip, -1.0, 1.0)
    nothing = torch.zeros_like(down)
    rows = [torch.stack([width * signs, nothing, across], 1)]
    rows.append(torch.stack([nothing, height, down], 1))
    shape = [len(pixels), pixels.shape[1], *size]
    grid = F.affine_grid(torch.stack(rows, 1).to(pixels), shape, align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _jittered(x: Tensor, view: View, drawn: Tensor) -> Tensor:
    brightness, contrast, saturation, hue = view.jitter
    on = (drawn[:, 5] < view.jittered).to(x)

    def factor(column: int, reach: float) -> Tensor:
        return (1 + on * reach * (2 * drawn[:, column].to(x) - 1)).clamp(min=0).view(-1, 1, 1, 1)

    x = (x * factor(6, brightness)).clamp(0, 1)
    middle = _grey(x).mean((1, 2, 3), keepdim=True)
    x = (middle + factor(7, contrast) * (x - middle)).clamp(0, 1)
    if x.shape[1] != 3:
        return x
    light = _grey(x)
    x = (light + factor(8, saturation) * (x - light)).clamp(0, 1)
    return _turned(x, 2 * math.pi * on * hue * (2 * drawn[:, 9].to(x) - 1))


def _grey(x: Tensor) -> Tensor:
    """Return the lightness (B, 1, H, W); of other than three channels their mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * x.new_tensor(_LIGHT).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Turn the colours of each image by an angle (B,), lightness kept."""
    to = x.new_tensor([_LIGHT, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    cos, sin, one = angle.cos(), angle.sin(), torch.ones_like(angle)
    zero = torch.zeros_like(angle)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    mixed = torch.linalg.inv(to) @ turn @ to
    return torch.einsum("bij,bjhw->bihw", mixed, x).clamp(0, 1)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by a Gaussian of its own width, which is given for a side of 224."""
    b, c, h, w = x.shape
    sigma = sigma.to(x) * max(h, w) / _FULL
    reach = min(max(1, round(_SIGMA[1] * 2 * max(h, w) / _FULL)), min(h, w) - 1)
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = (-(at**2) / (2 * sigma.clamp(min=0.05)[:, None] ** 2)).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
    flat = F.pad(x.reshape(1, b * c, h, w), (reach,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel.view(b * c, 1, -1, 1), groups=b * c)
    return F.conv2d(flat, kernel.view(b * c, 1, 1, -1), groups=b * c).view(b, c, h, w)
