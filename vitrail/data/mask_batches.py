"""Batches of images with their masks, augmented together, a function of (seed, epoch, number).

torchvision's transforms move an image and its mask alike (`tv_tensors`): the image bilinearly, the
mask by the nearest pixel. What is drawn comes from the batch's own generator, so that no state of
torch's is touched and any share of a batch comes out as in the whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vitrail.data import augment as augmentation
from vitrail.data.augment import Augment, Draws
from vitrail.data.batches import Batch, Batches, generator
from vitrail.data.cache import Pixels
from vitrail.data.mask_pixels import MaskPixels
from vitrail.data.masks import IGNORE
from vitrail.errors import ConfigError

# What makes a mixture or another picture of an image, and means nothing for its mask.
UNMEANT = ("randaugment", "mixup", "cutmix", "policy")


def check_augment(augment: Augment) -> None:
    """Raise ConfigError for what does not move a mask with its image."""
    for name in UNMEANT:
        if getattr(augment, name):
            raise ConfigError(
                f"augment.{name} is {getattr(augment, name)}: masks do not move with it, use flip, "
                "shift, scale and erasing"
            )


class MaskBatches(Batches):
    """Batches whose `targets` are masks, int64 (b, H, W), `IGNORE` where no pixel counts.

    Arguments are those of `Batches`, with the masks of the same part at the same size. What a
    shift or an erased rectangle takes away of an image counts for nothing. Raises ConfigError.
    """

    def __init__(self, pixels: Pixels, masks: MaskPixels, **order: Any) -> None:
        super().__init__(pixels, **order)
        if self.augment is not None:
            check_augment(self.augment)
        self._masks = masks

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        mine, augment = indices[rows], self.augment
        images, masks = self.pixels.take(mine), self._masks.take(mine)
        if augment is None:
            images = self.normalised(images)
        else:
            random = generator(self.seed, epoch, number + 1)
            draws = augmentation.draw(augment, len(indices), self.pixels.image, random)
            images, masks = moved(augment, images, masks, draws, rows)
            images = augmentation.erase(self.normalised(images), draws, rows)
            _hide(masks, draws.erased[rows])
        return Batch(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch.from_numpy(masks.astype(np.int64)),
            torch.from_numpy(mine),
        )


def moved(
    augment: Augment, images: np.ndarray, masks: np.ndarray, draws: Draws, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Crop or shift, then flip, images uint8 (b, H, W, C) and masks uint8 (b, H, W) together."""
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional

    height, width = masks.shape[1:]
    out, labels = np.empty_like(images), np.empty_like(masks)
    for at, row in enumerate(rows.tolist()):
        pair = (
            tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(images[at])).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(masks[at]))[None]),
        )
        if augment.scale is not None:
            box = draws.crop[row].tolist()
            pair = [functional.resized_crop(one, *box, size=[height, width]) for one in pair]
        elif augment.shift:
            down, right = draws.shift[row].tolist()
            pair = [_shifted(one, down, right) for one in pair]
        if draws.flip[row]:
            pair = [functional.horizontal_flip(one) for one in pair]
        out[at] = pair[0].permute(1, 2, 0).numpy()
        labels[at] = pair[1][0].numpy()
    return out, labels


def _shifted(one: Any, down: int, right: int) -> Any:
    """Shift an image or a mask; black, or what counts for nothing, moves in."""
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional

    height, width = one.shape[-2:]
    fill = IGNORE if isinstance(one, tv_tensors.Mask) else 0
    edges = [max(0, right), max(0, down), max(0, -right), max(0, -down)]
    wider = functional.pad(one, edges, fill=fill)
    return functional.crop(wider, max(0, -down), max(0, -right), height, width)


def _hide(masks: np.ndarray, boxes: np.ndarray) -> None:
    """Let erased rectangles (b, 4) count for nothing."""
    for mask, (top, left, height, width) in zip(masks, boxes.tolist(), strict=True):
        mask[top : top + height, left : left + width] = IGNORE
