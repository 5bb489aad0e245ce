"""Augmentation of whole batches: everything is drawn first, for the whole batch, then applied.

What is drawn depends on the generator alone and what is applied to an image on its own draws
alone, so that any share of a batch comes out as it would in the whole.

Random erasing: Zhong et al., AAAI 2020, arXiv:1708.04896. Mixup: Zhang et al., ICLR 2018,
arXiv:1710.09412. CutMix: Yun et al., ICCV 2019, arXiv:1905.04899. Repeated augmentation: Hoffer
et al., CVPR 2020, arXiv:1901.09335; Berman et al., arXiv:1902.05509. Alternating flips: Jordan,
2024, arXiv:2404.00498.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vitrail.data.operations import Drawn, operate_all
from vitrail.data.policies import Policy
from vitrail.data.randaugment import BINS, OPERATIONS, randaugment
from vitrail.errors import ConfigError

_ASPECT = (3 / 4, 4 / 3)
_ERASED = (0.02, 1 / 3)


@dataclass(frozen=True)
class Augment:
    """How training images are varied.

    flip: probability of a left-right flip. flips: "random" draws anew in each epoch; "alternating"
    draws in the first and turns each image round from epoch to epoch, so that two epochs show both
    sides of it. shift: largest shift along each side, as a fraction of it; border: what moves in,
    black or the mirrored image. scale: range of the area of a random crop that is resized back to
    the whole image; replaces shift. randaugment: torchvision's, (operations, magnitude 0-30).
    policy: timm's or Google's RandAugment, AutoAugment or a colour jitter, after crop and flip.
    mixup, cutmix: the parameter of the Beta distribution, 0 for none; where both are on, one of
    them is taken.
    mixing: "image" draws partner and share for each image; "batch" once for the batch, which is
    mixed with itself reversed (timm); "roll" once, the larger share for the image itself, mixed
    with its neighbour (Google). erasing: probability that a rectangle of the image becomes the
    mean colour, or, with noise, normal noise of deviation 1. repeats: how often each image of an
    epoch is in it, one after the other; an epoch is as long, of fewer images (DeiT's is 3).
    Raises ConfigError for values out of range.
    """

    flip: float = 0.5
    shift: float = 0.1
    scale: tuple[float, float] | None = None
    randaugment: tuple[int, int] | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    policy: Policy | None = None
    mixing: Literal["image", "batch", "roll"] = "image"
    noise: bool = False
    repeats: int = 1
    flips: Literal["random", "alternating"] = "random"
    border: Literal["black", "mirrored"] = "black"

    def __post_init__(self) -> None:
        for name in ("flip", "shift", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}: expected 0 to 1")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(f"augment.{name} is {getattr(self, name)}: expected 0 or more")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"augment.scale is {self.scale}: expected (low, high) within 0 to 1")
        if self.randaugment is not None:
            n, magnitude = self.randaugment
            if n < 0 or not 0 <= magnitude < BINS:
                raise ConfigError(
                    f"augment.randaugment is {self.randaugment}: expected (operations, "
                    f"magnitude 0-{BINS - 1}), for example (2, 9)"
                )
            if self.policy is not None:
                raise ConfigError("augment.randaugment and augment.policy are both set: give one")
        if self.repeats < 1:
            raise ConfigError(f"augment.repeats is {self.repeats}: expected 1 or more")

    @property
    def mixes(self) -> bool:
        """Return whether targets are mixtures of classes."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def views(self) -> int | None:
        """Return how many different pictures an image may become: 1, or 2 where it is mirrored.

        None where there is no counting them: what crops, shifts, colours, mixes or erases.
        """
        operations = self.randaugment is not None and self.randaugment[0] > 0
        changed = self.shift or self.scale or operations or self.policy or self.erasing
        if changed or self.mixes:
            return None
        return 2 if self.flip else 1


@dataclass(frozen=True, eq=False)
class Draws:
    """What is drawn for each of the n images of a batch; the fields are arrays of n rows.

    flip bool; shift (n, 2) pixels down and right; crop (n, 4) top, left, height, width;
    operations (n, k) indices and signs (n, k); partner: the image mixed in; weight: the share of
    the image itself; patch and erased (n, 4): the rectangle that comes from the partner, and the
    one that is erased (of no area: none); noise: seeds of what fills the latter, or nothing;
    policy: what the policy drew, if there is one.
    """

    flip: np.ndarray
    shift: np.ndarray
    crop: np.ndarray
    operations: np.ndarray
    signs: np.ndarray
    partner: np.ndarray
    weight: np.ndarray
    patch: np.ndarray
    erased: np.ndarray
    noise: np.ndarray
    policy: Drawn | None


def draw(augment: Augment, n: int, image: tuple[int, int], random: np.random.Generator) -> Draws:
    """Draw all random numbers for a batch of `n` images of size `image` = (H, W)."""
    sides = np.array(image)
    reach = np.floor(augment.shift * sides + 0.5).astype(int)
    shift = random.integers(-reach, reach + 1, size=(n, 2))
    flip = random.random(n) < augment.flip
    crop = erased = nothing = np.zeros((n, 4), int)
    if augment.scale is not None:
        crop = _boxes(random.uniform(*augment.scale, n), image, random, _ASPECT)
    steps = augment.randaugment[0] if augment.randaugment else 0
    operations = random.integers(0, len(OPERATIONS), size=(n, steps))
    signs = random.choice((-1, 1), size=(n, steps))
    if augment.erasing:
        erased = _boxes(random.uniform(*_ERASED, n), image, random, (0.3, 1 / 0.3))
        erased[random.random(n) >= augment.erasing, 2:] = 0
    mixes = _mixes if augment.mixing == "image" else _mixes_at_once
    weight, patch, partner = np.ones(n), nothing, np.arange(n)
    if augment.mixes:
        weight, patch, partner = mixes(augment, n, image, random)
    # What came later is drawn last, so that what was drawn before it stays the same.
    noise = random.integers(0, 2**63, n) if augment.noise else np.empty(0, int)
    policy = augment.policy.draw(n, image, random) if augment.policy else None
    return Draws(
        flip, shift, crop, operations, signs, partner, weight, patch, erased, noise, policy
    )


Mixes = tuple[np.ndarray, np.ndarray, np.ndarray]


def _mixes(augment: Augment, n: int, image: tuple[int, int], random: np.random.Generator) -> Mixes:
    """Draw shares, rectangles and partners, for each image its own."""
    partner, patch = random.permutation(n), np.zeros((n, 4), int)
    both = augment.mixup > 0 and augment.cutmix > 0
    cut = random.random(n) < 0.5 if both else np.full(n, augment.cutmix > 0)
    mixed = random.beta(augment.mixup, augment.mixup, n) if augment.mixup else np.ones(n)
    if augment.cutmix:
        share = 1 - random.beta(augment.cutmix, augment.cutmix, n)
        patch = _boxes(share, image, random, (1.0, 1.0), centred=True)
        patch[~cut, 2:] = 0
    weight = np.where(cut, 1 - patch[:, 2] * patch[:, 3] / np.prod(image), mixed)
    return weight, patch, partner


def _mixes_at_once(
    augment: Augment, n: int, image: tuple[int, int], random: np.random.Generator
) -> Mixes:
    """Draw one share and one rectangle for the whole batch."""
    one = Augment(mixup=augment.mixup, cutmix=augment.cutmix)
    weight, patch, _ = _mixes(one, 1, image, random)
    if augment.mixing == "batch":
        return weight.repeat(n), patch.repeat(n, 0), np.arange(n)[::-1].copy()
    if not patch[0, 2:].all():
        weight = np.maximum(weight, 1 - weight)
    return weight.repeat(n), patch.repeat(n, 0), np.roll(np.arange(n), 1)


def _boxes(
    area: np.ndarray,
    image: tuple[int, int],
    random: np.random.Generator,
    aspect: tuple[float, float],
    centred: bool = False,
) -> np.ndarray:
    """Draw rectangles (n, 4) top, left, height, width of the given shares of the image's area.

    They lie inside the image; `centred` draws their centres anywhere and cuts off what is
    outside, as CutMix does.
    """
    n, sides = len(area), np.array(image)
    low, high = np.log(aspect)
    stretch = np.exp(random.uniform(low, high, n) / 2)
    wanted = np.sqrt(area)[:, None] * sides * np.stack([1 / stretch, stretch], 1)
    extent = np.clip(np.floor(wanted + 0.5).astype(int), 0 if centred else 1, sides)
    where = random.random((n, 2))
    if not centred:
        return np.concatenate([np.floor(where * (sides - extent + 1)).astype(int), extent], 1)
    start = np.floor(where * sides).astype(int) - extent // 2
    end = np.clip(start + extent, 0, sides)
    start = np.clip(start, 0, sides)
    return np.concatenate([start, end - start], 1)


def place(augment: Augment, images: np.ndarray, draws: Draws, rows: np.ndarray) -> np.ndarray:
    """Apply RandAugment, crop or shift, flip and policy to uint8 (b, H,
    W, C); image i has rows[i].
    """
    if augment.randaugment and augment.randaugment[0]:
        images = randaugment(
            images, draws.operations[rows], draws.signs[rows], augment.randaugment[1]
        )
    if augment.scale is not None:
        images = _cropped(images, draws.crop[rows])
        flipped = draws.flip[rows]
        images[flipped] = images[flipped, :, ::-1]
    elif augment.shift or augment.flip:
        shifts, flips = draws.shift[rows].tolist(), draws.flip[rows].tolist()
        images = _shifted(images, shifts, flips, augment.border)
    return images if draws.policy is None else operate_all(images, draws.policy, rows)


def _shifted(images: np.ndarray, shifts: list, flips: list, border: str) -> np.ndarray:
    _, height, width, _ = images.shape
    reach = max((abs(by) for shift in shifts for by in shift), default=0)
    margin = (0, 0), (reach, reach), (reach, reach), (0, 0)
    around = np.pad(images, margin, "reflect" if border == "mirrored" else "constant")
    out = np.empty_like(images)
    for image, target, (down, right), flip in zip(around, out, shifts, flips, strict=True):
        top, left = reach - down, reach - right
        if flip:
            image = image[:, ::-1]
        target[:] = image[top : top + height, left : left + width]
    return out


def _cropped(images: np.ndarray, crops: np.ndarray) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    size = images.shape[1:3]
    out = np.empty_like(images)
    for image, target, (top, left, height, width) in zip(images, out, crops.tolist(), strict=True):
        crop = torch.from_numpy(image[top : top + height, left : left + width])
        # The crop is never larger than the image, so there is nothing to antialias.
        whole = interpolate(crop.permute(2, 0, 1)[None], size, mode="bilinear")
        target[:] = whole[0].permute(1, 2, 0).numpy()
    return out


def blend(images: np.ndarray, others: np.ndarray, draws: Draws, rows: np.ndarray) -> np.ndarray:
    """Apply Mixup and CutMix to float32 (b, H, W, C) with the partners'
    images; changes `images`.
    """
    weight = draws.weight[rows]
    patches = draws.patch[rows].tolist()
    for image, other, share, (top, left, height, width) in zip(
        images, others, weight.tolist(), patches, strict=True
    ):
        if height and width:
            here = slice(top, top + height), slice(left, left + width)
            image[here] = other[here]
        elif share < 1:
            image *= np.float32(share)
            image += np.float32(1 - share) * other
    return images


def soften(labels: np.ndarray, draws: Draws, rows: np.ndarray, classes: int) -> np.ndarray:
    """Return the targets after `blend`, float32 (b, classes).

    `labels` of the whole batch are class indices (B,), or marks of several labels (B, classes).
    """
    weight = draws.weight[rows].astype(np.float32)
    if labels.ndim == 2:
        own, other = labels[rows], labels[draws.partner[rows]]
        return weight[:, None] * own + (1 - weight)[:, None] * other
    at = np.arange(len(rows))
    targets = np.zeros((len(rows), classes), np.float32)
    targets[at, labels[rows]] = weight
    targets[at, labels[draws.partner[rows]]] += 1 - weight
    return targets


def erase(images: np.ndarray, draws: Draws, rows: np.ndarray) -> np.ndarray:
    """Set the erased rectangles of normalised float32 (b, H, W, C) to 0, the mean, or to noise."""
    boxes = draws.erased[rows]
    for i in np.flatnonzero(boxes[:, 2:].all(1)):
        top, left, height, width = boxes[i]
        inside = images[i, top : top + height, left : left + width]
        inside[:] = 0
        if len(draws.noise):
            random = np.random.Generator(np.random.Philox(int(draws.noise[rows[i]])))
            inside[:] = random.standard_normal(inside.shape, np.float32)
    return images
