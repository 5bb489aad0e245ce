"""Batches of images with their boxes, augmented together, a function of (seed, epoch, number).

torchvision's transforms move an image and its boxes alike (`tv_tensors`). What is drawn comes from
the batch's own generator, as of masks (`mask_batches`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from vitrail.data import augment as augmentation
from vitrail.data.augment import Augment, Draws
from vitrail.data.batches import Batch, Batches, generator
from vitrail.data.boxes import Boxes
from vitrail.data.cache import Pixels
from vitrail.data.instances import pictures
from vitrail.data.mask_batches import UNMEANT
from vitrail.errors import ConfigError, DataError
from vitrail.layers.outlines import SIDE

# A box of which a crop leaves less is nothing to be found any more, but not nothing either.
LEFT = 0.25
NOTHING, CROWD = -1, -2


def check_augment(augment: Augment) -> None:
    """Raise ConfigError for what does not move boxes with their image."""
    for name in UNMEANT:
        if getattr(augment, name):
            raise ConfigError(
                f"augment.{name} is {getattr(augment, name)}: boxes do not move with it, use flip, "
                "shift, scale and erasing"
            )


class BoxBatches(Batches):
    """Batches whose `targets` are float32 (b, m, 5): a class and a box in shares of the sides.

    The class is -1 where a row is empty, and -2 where what is inside counts for nothing: a crowd,
    or a box that is mostly cut off. Arguments are those of `Batches`. Raises ConfigError, and
    DataError for pixels without boxes.
    """

    def __init__(self, pixels: Pixels, **order: Any) -> None:
        super().__init__(pixels, **order)
        if self.augment is not None:
            check_augment(self.augment)
        boxes = pixels.part.source.boxes
        if boxes is None:
            raise DataError(f"{pixels.part.source.origin} has no boxes: give images with boxes")
        self._boxes: Boxes = boxes

    def get(self, epoch: int, number: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Return batch `number` of `epoch`; of several processes, rank's share of its rows."""
        indices, rows = self.drawn(epoch, number, rank=rank, world=world)
        mine, augment = indices[rows], self.augment
        images, targets = self.pixels.take(mine), [self._targets(int(at)) for at in mine]
        if augment is None:
            images = self.normalised(images)
        else:
            random = generator(self.seed, epoch, number + 1)
            draws = augmentation.draw(augment, len(indices), self.pixels.image, random)
            images, targets = moved(augment, images, targets, draws, rows)
            images = augmentation.erase(self.normalised(images), draws, rows)
        return Batch(
            torch.from_numpy(images).permute(0, 3, 1, 2), padded(targets), torch.from_numpy(mine)
        )

    def _targets(self, at: int) -> np.ndarray:
        """Return the class and the box of each object of an image, float32 (m, 5)."""
        truth = self._boxes.truths[int(self.pixels.part.rows[at])]
        kinds = np.where(truth.crowd, CROWD, truth.labels)
        return np.column_stack([kinds, truth.as_shares()]).astype(np.float32)


class OutlineBatches(BoxBatches):
    """Batches whose `targets` are float32 (b, m, 9 + SIDE * SIDE): behind the class and the box of
    each object stand its frame and its picture in it, as `layers.outlines` has them."""

    def _targets(self, at: int) -> np.ndarray:
        truth = self._boxes.truths[int(self.pixels.part.rows[at])]
        own = super()._targets(at)
        return np.column_stack([own, own[:, 1:], pictures(truth)]).astype(np.float32)


def padded(targets: list[np.ndarray]) -> torch.Tensor:
    """Return the targets of some images as one tensor (b, m, c), with one empty row at least."""
    out = torch.zeros(len(targets), max(1, *map(len, targets), 1), targets[0].shape[1])
    out[:, :, 0] = NOTHING
    for row, own in zip(out, targets, strict=True):
        row[: len(own)] = torch.from_numpy(own)
    return out


def moved(
    augment: Augment, images: np.ndarray, targets: list[np.ndarray], draws: Draws,
    rows: np.ndarray,
) -> tuple[np.ndarray, list[np.ndarray]]:  # fmt: skip
    """Crop or shift, then flip, images uint8 (b, H, W, C) and their targets (m, c) together."""
    from torchvision import tv_tensors

    height, width = images.shape[1:3]
    sides = np.array([width, height, width, height], np.float32)
    out, found = np.empty_like(images), []
    for at, row in enumerate(rows.tolist()):
        image = tv_tensors.Image(
            torch.from_numpy(np.ascontiguousarray(images[at])).permute(2, 0, 1)
        )
        wide = targets[at].shape[1] > 5
        framed = np.concatenate([targets[at][:, 1:5], *([targets[at][:, 5:9]] if wide else [])])
        boxes = tv_tensors.BoundingBoxes(  # pyright: ignore[reportCallIssue]
            torch.from_numpy(framed * sides), format="XYXY",
            canvas_size=(height, width), clamping_mode=None,
        )  # fmt: skip
        pair, grown = _placed(augment, (image, boxes), draws, row)
        out[at] = pair[0].permute(1, 2, 0).numpy()
        found.append(_after(targets[at], pair[1].numpy(), sides) if grown else targets[at])
        if wide and draws.flip[row]:
            flat = found[-1][:, 9:]
            mirrored = flat.reshape(len(flat), SIDE, SIDE)[:, :, ::-1]
            found[-1] = np.column_stack([found[-1][:, :9], mirrored.reshape(flat.shape)])
    return out, found


def _after(target: np.ndarray, boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return the targets whose boxes, and behind them their frames, are in these places now, in
    pixels.
    """
    n = len(target)
    left, there = _left(target[:, 0], boxes[:n], sides)
    if target.shape[1] == 5:
        return left
    return np.column_stack([left, (boxes[n:] / sides)[there], target[there, 9:]])


def _placed(augment: Augment, pair: Any, draws: Draws, row: int) -> tuple[Any, bool]:
    """Return an image and its boxes after what is drawn for them, and
    whether that changed anything.
    """
    from torchvision.transforms.v2 import functional

    height, width = pair[0].shape[-2:]
    changed = False
    if augment.scale is not None:
        box = draws.crop[row].tolist()
        pair = [functional.resized_crop(one, *box, size=[height, width]) for one in pair]
        changed = True
    elif augment.shift:
        down, right = draws.shift[row].tolist()
        edges = [max(0, right), max(0, down), max(0, -right), max(0, -down)]
        corner = max(0, -down), max(0, -right)
        pair = [functional.crop(functional.pad(one, edges), *corner, height, width) for one in pair]
        changed = True
    if draws.flip[row]:
        pair = [functional.horizontal_flip(one) for one in pair]
        changed = True
    return pair, changed


def _left(kinds: np.ndarray, boxes: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut boxes in pixels at the border; return their targets and which of them are left."""
    inside = np.clip(boxes, 0, sides)
    area, whole = (
        np.prod(some[:, 2:] - some[:, :2], axis=1).astype(np.float32) for some in (inside, boxes)
    )
    there = np.asarray(((inside[:, 2:] - inside[:, :2]) > 1e-3).all(1))
    kinds = np.where(area < LEFT * whole, CROWD, kinds)
    return np.column_stack([kinds, inside / sides])[there].astype(np.float32), there
