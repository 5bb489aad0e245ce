"""Operations of augmentation policies on whole batches, each image with an amount of its own.

They compute what Pillow does, whose functions AutoAugment (arXiv 1805.09501) and RandAugment
(arXiv 1909.13719) were defined by, on any number of channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# What an amount is: nothing, degrees, bits kept, a threshold, what is added below 128, a factor,
# a slope, pixels, half a side in pixels.
OPERATIONS = (
    "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add",
    "color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x",
    "translate_y", "cutout",
)  # fmt: skip
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
GREY = 128  # comes in where an image moves away


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a policy drew for n images: k operations each, with amounts and places, (n, k).

    `operations` are indices into OPERATIONS, -1 for none; `places` (n, k, 2) are where a cutout
    lies, as fractions of height and width. `smooth` interpolates between pixels when they move.
    """

    operations: np.ndarray
    amounts: np.ndarray
    places: np.ndarray
    smooth: bool


def operate_all(images: np.ndarray, drawn: Drawn, rows: np.ndarray) -> np.ndarray:
    """Apply to uint8 (b, H, W, C) their operations in order; image i is rows[i] of `drawn`."""
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    for column in range(drawn.operations.shape[1]):
        chosen = drawn.operations[rows, column]
        for index in np.unique(chosen[chosen >= 0]):
            same = np.flatnonzero(chosen == index)
            amounts = torch.from_numpy(drawn.amounts[rows[same], column]).float()
            places = torch.from_numpy(drawn.places[rows[same], column])
            name, at = OPERATIONS[index], torch.from_numpy(same)
            batch[at] = operate(batch[at], name, amounts, places=places, smooth=drawn.smooth)
    return np.ascontiguousarray(batch.permute(0, 2, 3, 1).numpy())


def operate(
    batch: Tensor, name: str, amounts: Tensor, *, places: Tensor | None = None, smooth: bool = True
) -> Tensor:
    """Apply one operation to uint8 (b, C, H, W), by `amounts` (b,)."""
    if name in MOVES:
        return _moved(batch, _matrices(name, amounts, batch.shape[-2:]), smooth)
    amount = amounts.view(-1, 1, 1, 1)
    match name:
        case "autocontrast" | "equalize":
            from torchvision.transforms.v2 import functional as V

            by_channel = batch.flatten(0, 1)[:, None]
            changed = (
                V.autocontrast(by_channel) if name == "autocontrast" else V.equalize(by_channel)
            )
            return changed.view_as(batch)
        case "invert":
            return 255 - batch
        case "posterize":
            lost = 2 ** (8 - amount.clamp(0, 8))
            return (batch.div(lost, rounding_mode="floor") * lost).to(torch.uint8)
        case "solarize":
            return torch.where(batch < amount, batch, 255 - batch)
        case "solarize_add":
            added = (batch + amount).clamp(max=255).to(torch.uint8)
            return torch.where(batch < GREY, added, batch)
        case "cutout":
            assert places is not None
            return _cut(batch, amounts, places)
    # Towards, or away from, an image without colour, contrast, light or detail.
    return _blended(_without(batch, name), batch, amount)


def _blended(least: Tensor, batch: Tensor, factor: Tensor) -> Tensor:
    return (least + factor * (batch.float() - least)).clamp_(0, 255).to(torch.uint8)


def _without(batch: Tensor, name: str) -> Tensor:
    if name == "brightness":
        return torch.zeros(1)
    if name == "sharpness":
        return _smoothed(batch)
    grey = _grey(batch)
    # Pillow rounds the mean. Whole numbers in float64 have one sum, in whatever order.
    mean = grey.double().mean((1, 2, 3), keepdim=True)
    return grey if name == "color" else (mean + 0.5).floor().float()


def _grey(batch: Tensor) -> Tensor:
    """Return the lightness (b, 1, H, W): Pillow's of three channels, the mean of others."""
    if batch.shape[1] != 3:
        return batch.float().mean(1, keepdim=True).round()
    parts = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)
    return ((batch * parts).sum(1, keepdim=True) + 32768).div(65536, rounding_mode="floor").float()


def _smoothed(batch: Tensor) -> Tensor:
    """Smooth the image with the 3 x 3 kernel of Pillow's SMOOTH; its border stays."""
    whole = batch.float()
    kernel = torch.ones(batch.shape[1], 1, 3, 3)
    kernel[..., 1, 1] = 5
    out = whole.clone()
    if min(batch.shape[-2:]) > 2:
        # Sums of whole numbers are exact, whichever way a convolution takes.
        inner = F.conv2d(whole, kernel, groups=batch.shape[1])
        out[..., 1:-1, 1:-1] = (inner / 13 + 0.5).floor()
    return out


def _cut(batch: Tensor, amounts: Tensor, places: Tensor) -> Tensor:
    """Lay a grey square of sides 2 * amount on the image, cut off at the border."""
    height, width = batch.shape[-2:]
    top, left = (places * torch.tensor([height, width])).floor().T[..., None]
    half = amounts[:, None]
    rows, columns = torch.arange(height), torch.arange(width)
    down = (rows >= top - half) & (rows < top + half)
    across = (columns >= left - half) & (columns < left + half)
    return batch.masked_fill((down[:, :, None] & across[:, None])[:, None], GREY)


def _matrices(name: str, amounts: Tensor, size: torch.Size) -> Tensor:
    """Return matrices (b, 2, 3): from a place in the new image to one in the
    old, in pixels from the corner.
    """
    height, width = size
    found = torch.eye(2, 3).repeat(len(amounts), 1, 1)
    match name:
        case "rotate":
            # Not in one go: what a vectorised cosine gives depends on how many there are.
            for matrix, degrees in zip(found, amounts.tolist(), strict=True):
                cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
                x, y = width / 2, height / 2
                turn = [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]
                matrix.copy_(torch.tensor(turn))
        case "shear_x":
            found[:, 0, 1] = amounts
        case "shear_y":
            found[:, 1, 0] = amounts
        case "translate_x":
            found[:, 0, 2] = amounts
        case _:
            found[:, 1, 2] = amounts
    return found


def _moved(batch: Tensor, matrices: Tensor, smooth: bool) -> Tensor:
    height, width = batch.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    # Not as a matrix product, whose rounding depends on the size of the batch.
    parts = matrices[:, None, None]
    places = x[..., None] * parts[..., 0] + y[..., None] * parts[..., 1] + parts[..., 2]
    sides = torch.tensor([width, height])
    inside = ((places >= 0) & (places < sides)).all(-1)[:, None]
    moved = F.grid_sample(
        batch.float(),
        2 * places / sides - 1,
        mode="bilinear" if smooth else "nearest",
        padding_mode="border",
        align_corners=False,
    )
    return torch.where(inside, moved.round_().to(torch.uint8), GREY)
