"""Maps of what a model looked at in an image, by four methods.

- `occlusion` (Zeiler and Fergus, ECCV 2014, arXiv 1311.2901) hides the image piece by piece and
  draws the loss of confidence: true of every backbone, some hundred forward passes.
- `rollout` (Abnar and Zuidema, ACL 2020, arXiv 2005.00928) multiplies the attention of all
  blocks, each with its skip: for transformers whose tokens all attend to each other.
- `class_attention` shows what a class token or probe reads at the end: CaiT, XCiT, MAP heads.
- `gradient` (Grad-CAM, Selvaraju et al., ICCV 2017, arXiv 1610.02391) weighs the last map by
  the gradient of a class: for any backbone.

`explain` takes the one that suits the model.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.data.pieces import spans
from vitrail.errors import ConfigError
from vitrail.layers.protocols import Attends, Restores

SHOWN = 112  # pixels at which a small image is shown, at least
PHOTOGRAPH = 640  # pixels of a photograph's longer side, at most

METHODS = ("occlusion", "rollout", "class-attention", "gradient")
ASKED = {
    "occlusion": "bright where hiding a piece of the image takes confidence away",
    "rollout": "bright where its attention, multiplied over all blocks, comes from",
    "class-attention": "bright where its class token reads",
    "gradient": "bright where the last map speaks for the class (Grad-CAM)",
}


def explain(
    model: nn.Module, image: Tensor, target: int, method: str = "auto"
) -> tuple[np.ndarray, str]:
    """Return a map float32 (H, W) in [0, 1] of what speaks for class `target`, and its method.

    `image` is (C, H, W), normalised as the model takes it; `method` is one of `METHODS`, or "auto"
    for the one that suits the model. Raises ConfigError for a method that the model does not have.
    """
    model = model.eval()
    if method == "occlusion":
        return saliency(model, image, target), method
    if method not in (*METHODS, "auto"):
        raise ConfigError(f"method is {method!r}: expected auto, {', '.join(METHODS)}")
    found = {} if method == "gradient" else _attended(model, image)
    if method == "auto":
        method = next((m for m in ("class-attention", "rollout") if m in found), "gradient")
    if method == "gradient":
        return gradient(model, image, target), method
    if method not in found:
        have = [*found, "gradient", "occlusion"]
        raise ConfigError(f"method is {method!r}; this model has {', '.join(have)}")
    return _enlarged_heat(found[method], image), method


@torch.no_grad()
def _attended(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Return maps (h, w) by rollout and class attention, as far as the model's attention allows."""
    seen: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(
            lambda m, args: seen.append(m.weights(*args)[0].float().mean(0))  # pyright: ignore[reportCallIssue]
        )
        for module in model.modules()
        if isinstance(module, Attends)
    ]
    try:
        maps = model.features(image[None])  # pyright: ignore[reportCallIssue]
        within = len(seen)
        seen.clear()
        model.forward(image[None])
    finally:
        for handle in handles:
            handle.remove()
    grid, found = maps[-1].shape[1:3], {}
    n = math.prod(grid)
    readers = [w for w in seen[within:] or seen if w.shape[0] == 1 and w.shape[1] >= n]
    if readers:
        found["class-attention"] = torch.stack([w[0, -n:] for w in readers]).mean(0).view(grid)
    square = [w for w in seen if w.shape[0] == w.shape[1]]
    sizes = {w.shape[0] for w in square}
    if len(maps) == 1 and len(sizes) == 1 and n <= (size := sizes.pop()):
        found["rollout"] = rollout(square, size - n).view(grid)
    return found


def rollout(weights: list[Tensor], prefix: int) -> Tensor:
    """Return how much each patch enters the answer: (N - prefix,), summing to at most 1.

    `weights` are the attention (N, N) of all blocks, heads averaged, the first block's first;
    the skip counts as much as the attention. Read from the first token if there is a prefix,
    else as the mean over tokens.
    """
    total = torch.eye(len(weights[0]))
    for share in weights:
        mixed = share + torch.eye(len(share))
        total = mixed / mixed.sum(1, keepdim=True) @ total
    return total[0, prefix:] if prefix else total.mean(0)


def gradient(model: nn.Module, image: Tensor, target: int) -> np.ndarray:
    """Return where the last stage's input speaks for a class: float32 (H, W) in [0, 1].

    Channels are weighted by the mean gradient of the class's logit; what speaks against it counts
    as 0. In transformers the input of the last block is taken, since a class token reads nothing
    after it. Of several inputs, as cells have them, it is the first that is read.
    """
    taken: list[Tensor] = []
    own: list[tuple[int, ...]] = []

    def take(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        fresh = [
            a.detach().requires_grad_() if isinstance(a, Tensor) and len(a) == 1 else a
            for a in args
        ]
        taken[:] = [a for a, old in zip(fresh, args, strict=True) if a is not old]
        own.extend(a for a in args if isinstance(a, tuple))  # the grid of a block that is told it
        return (*fresh,)

    with torch.no_grad():
        grid = model.features(image[None])[-1].shape[1:3]  # pyright: ignore[reportCallIssue]
    handle = _last(model).register_forward_pre_hook(take)
    try:
        with torch.enable_grad():
            # By `forward`, without what a method has hooked around it: of this image alone.
            logit = model.forward(image[None])[0, target]
            slopes = torch.autograd.grad(logit, taken, allow_unused=True)
    finally:
        handle.remove()
    embed, grid = getattr(model, "embed", None), own[-1] if own else grid
    read = (
        (x.detach(), slope) for x, slope in zip(taken, slopes, strict=True) if slope is not None
    )
    both = next(read)
    if isinstance(embed, Restores):
        both = tuple(embed.restored(part) for part in both)
    x, slope = (part[0] for part in both)
    if x.ndim == 2:
        n = math.prod(grid)
        x, slope = x[-n:].unflatten(0, grid), slope[-n:].unflatten(0, grid)
    return _enlarged_heat((x * slope.mean((0, 1))).sum(-1).clamp(min=0), image)


def _last(model: nn.Module) -> nn.Module:
    """Return the block whose input is explained."""
    stages = getattr(model, "stages", None)
    return model.blocks[-1] if stages is None else stages[-1].blocks[0]  # pyright: ignore


def _enlarged_heat(heat: Tensor, image: Tensor) -> np.ndarray:
    heat = heat.float()
    low, high = heat.min(), heat.max()
    scaled = (heat - low) / (high - low) if high > low else torch.zeros_like(heat)
    size = image.shape[-2:]
    smooth = F.interpolate(scaled[None, None], size, mode="bilinear", align_corners=False)
    return smooth[0, 0].numpy()


@torch.no_grad()
def saliency(model: nn.Module, image: Tensor, target: int) -> np.ndarray:
    """Return how much each part of an image speaks for a class: float32 (H, W) in [0, 1].

    `image` is (C, H, W), normalised as the model takes it; a hidden piece becomes the image's
    mean colour. The map is the fall of the log-probability of class `target`, averaged over
    all pieces that cover a pixel; what speaks against the class counts as 0.
    """
    model = model.eval()
    _, h, w = image.shape
    spans_y, spans_x = spans(h), spans(w)
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


def photograph(data: bytes, most: int = PHOTOGRAPH) -> np.ndarray:
    """Decode an image file in its own shape: uint8 (h, w, 3), upright, at most `most` a side.

    This is what `overlay` draws on; a model itself sees the image squeezed to its own size.
    Raises BrokenImage.
    """
    from vitrail.data.decode import decode_full, resize

    image = decode_full(data, 3)
    height, width = image.shape[:2]
    shrunk = min(1.0, most / max(height, width))
    size = max(1, round(height * shrunk)), max(1, round(width * shrunk))
    return resize(image[None], size)[0]


def png(image: np.ndarray) -> bytes:
    """Encode an image uint8 (H, W, C) as PNG; small ones are enlarged, their pixels kept square."""
    return _encoded(_enlarged(_colour(image)))


def overlay(image: np.ndarray, heat: np.ndarray) -> bytes:
    """Encode an image uint8 (H, W, C) as PNG, darkened, with a map glowing on it.

    `heat` is float32 in [0, 1] of any size (h, w): it is stretched to the image, so that a map of
    the squeezed input of a model lies where it belongs on the photograph.
    """
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
