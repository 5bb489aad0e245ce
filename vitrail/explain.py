"""What a model looked at: the image is hidden piece by piece, and the loss of confidence drawn.

Occlusion (Zeiler and Fergus, ECCV 2014, arXiv 1311.2901) asks the model itself instead of
reading gradients or attention, so it is true of every backbone alike, deployed ones included.
It costs some hundred forward passes of one image, in batches.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The patch is a fifth of the image, moved by half its width: fine enough to see a sleeve,
# coarse enough that hiding one patch matters.
PLACES = 9
SHOWN = 112  # pixels at which a small image is shown, at least


@torch.no_grad()
def saliency(model: nn.Module, image: Tensor, target: int) -> np.ndarray:
    """How much each part of an image speaks for a class: float32 (H, W) in [0, 1].

    `image` is (C, H, W), normalised as the model takes it; a hidden piece becomes the image's
    mean colour. The map is the fall of the log-probability of class `target`, averaged over
    all pieces that cover a pixel; what speaks against the class counts as 0.
    """
    model = model.eval()
    _, h, w = image.shape
    spans_y, spans_x = _spans(h), _spans(w)
    base = model(image[None]).log_softmax(1)[0, target]
    grey = image.mean((1, 2), keepdim=True)
    pieces = [(y, x) for y in spans_y for x in spans_x]
    heat, seen = torch.zeros(h, w), torch.zeros(h, w)
    for start in range(0, len(pieces), 27):
        some = pieces[start : start + 27]
        hidden = image.repeat(len(some), 1, 1, 1)
        for row, (y, x) in enumerate(some):
            hidden[row, :, y, x] = grey
        falls = base - model(hidden).log_softmax(1)[:, target]
        for (y, x), fall in zip(some, falls.tolist(), strict=True):
            heat[y, x] += max(0.0, fall)
            seen[y, x] += 1
    heat = heat / seen
    top = heat.max()
    return (heat / top if top > 0 else heat).numpy()


def _spans(side: int) -> list[slice]:
    """Overlapping pieces that cover a side of so many pixels."""
    size = max(1, round(2 * side / (PLACES + 1)))
    starts = np.linspace(0, side - size, min(PLACES, side)).round().astype(int)
    return [slice(int(s), int(s) + size) for s in starts]


def png(image: np.ndarray) -> bytes:
    """A PNG of an image uint8 (H, W, C); small ones enlarged, their pixels kept square."""
    return _encoded(_enlarged(_colour(image)))


def overlay(image: np.ndarray, heat: np.ndarray) -> bytes:
    """A PNG of the image, darkened, with `heat` (H, W) in [0, 1] glowing on it."""
    from matplotlib import colormaps

    shown = _enlarged(_colour(image)).astype(np.float32) / 255
    size = shown.shape[:2]
    grid = torch.from_numpy(heat)[None, None].float()
    smooth = F.interpolate(grid, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    glow = colormaps["inferno"](smooth)[..., :3]
    grey = shown.mean(2, keepdims=True)
    weight = 0.35 + 0.45 * smooth[..., None]
    mixed = (1 - weight) * grey + weight * glow
    return _encoded((mixed * 255).round().astype(np.uint8))


def _colour(image: np.ndarray) -> np.ndarray:
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]


def _enlarged(image: np.ndarray) -> np.ndarray:
    times = max(1, -(-SHOWN // max(image.shape[:2])))
    return image.repeat(times, 0).repeat(times, 1)


def _encoded(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return file.getvalue()
