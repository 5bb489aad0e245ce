"""Augmentation policies of published recipes: RandAugment of two kinds, AutoAugment, jitter.

RandAugment: Cubuk et al., NeurIPS 2020, arXiv 1909.13719; AutoAugment: CVPR 2019, arXiv 1805.09501.
A policy draws everything for a whole batch at once, from one generator. Of names the same, ranges
differ: magnitude 9 of timm is not magnitude 9 of Google, and neither is torchvision's, which is
`Augment.randaugment`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitrail.data.operations import OPERATIONS, Drawn
from vitrail.errors import ConfigError

_TIMM = OPERATIONS[:15]
_SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
_ENHANCE = ("color", "contrast", "brightness", "sharpness")
_PLAIN = ("autocontrast", "equalize", "invert")


@dataclass(frozen=True)
class TimmRandAugment:
    """Draws `operations` of 15 for each image, each of which acts with probability one half.

    `magnitude` is 0 to 10 and varies by a normal `std` from image to image; `increasing` makes
    every operation stronger with it. "rand-m9-mstd0.5-inc1" of DeiT, Swin and many more is the
    default. Pixels that move are interpolated linearly; timm's draws from linear and cubic.

        vitrail train --set augment.policy=timm_rand_augment --set augment.policy.magnitude=7 ...
    """

    magnitude: float = 9.0
    std: float = 0.5
    operations: int = 2
    increasing: bool = True

    def __post_init__(self) -> None:
        _check(self.operations, self.magnitude, 10)
        if self.std < 0:
            raise ConfigError(f"std {self.std} is below 0: 0.5 is usual")

    def draw(self, n: int, image: tuple[int, int], random: np.random.Generator) -> Drawn:
        """Draw for `n` images of size `image` = (H, W)."""
        shape = (n, self.operations)
        chosen = random.integers(0, len(_TIMM), shape)
        acts = random.random(shape) < 0.5
        levels = np.clip(random.normal(self.magnitude, self.std, shape), 0, 10) / 10
        signs = random.choice((-1, 1), shape)
        amounts = np.zeros(shape)
        for index, name in enumerate(_TIMM):
            at = chosen == index
            amounts[at] = self._amounts(name, levels[at], signs[at], image)
        return Drawn(np.where(acts, chosen, -1), amounts, np.zeros((*shape, 2)), True)

    def _amounts(
        self, name: str, level: np.ndarray, sign: np.ndarray, image: tuple[int, int]
    ) -> np.ndarray:
        """Return what the levels (m,) from 0 to 1 mean for one operation."""
        up = self.increasing
        if name in _ENHANCE:
            return np.maximum(0.1, 1 + 0.9 * level * sign) if up else 0.1 + 1.8 * level
        match name:
            case "rotate":
                return 30 * level * sign
            case "posterize":
                return 4 - np.floor(4 * level) if up else np.floor(4 * level)
            case "solarize":
                return 256 - np.floor(256 * level) if up else np.floor(256 * level)
            case "solarize_add":
                return np.floor(110 * level)
            case "shear_x" | "shear_y":
                return 0.3 * level * sign
            case "translate_x" | "translate_y":
                return 0.45 * level * sign * image[name == "translate_x"]
        return np.zeros(len(level))


@dataclass(frozen=True)
class GoogleRandAugment:
    """Draws `layers` of 16 operations for each image, all of which act, at one `magnitude`.

    As AugReg, MLP-Mixer, MaxViT and big_vision have it: (2, 10), (2, 15), (2, 20). Magnitudes may
    exceed 10, and at 0 some operations are strong (nothing is left of a posterised image).
    Distances are published for 224 pixels and scale with the image here.

        vitrail train --set augment.policy=google_rand_augment --set augment.policy.magnitude=15 ...
    """

    layers: int = 2
    magnitude: float = 10.0

    def __post_init__(self) -> None:
        _check(self.layers, self.magnitude, 30)

    def draw(self, n: int, image: tuple[int, int], random: np.random.Generator) -> Drawn:
        """Draw for `n` images of size `image` = (H, W)."""
        shape = (n, self.layers)
        chosen = random.integers(0, len(OPERATIONS), shape)
        signs = random.choice((-1, 1), shape)
        sizes = np.array([self._amount(name, image) for name in OPERATIONS])
        signed = np.isin(np.array(OPERATIONS)[chosen], _SIGNED)
        amounts = sizes[chosen] * np.where(signed, signs, 1)
        return Drawn(chosen, amounts, random.random((*shape, 2)), False)

    def _amount(self, name: str, image: tuple[int, int]) -> float:
        m = self.magnitude
        if name in _PLAIN:
            return 0.0
        if name in _ENHANCE:
            return 0.18 * m + 0.1
        return {
            "rotate": 3 * m,
            "posterize": min(8, int(0.4 * m)),
            "solarize": int(25.6 * m),
            "solarize_add": int(11 * m),
            "shear_x": 0.03 * m,
            "shear_y": 0.03 * m,
            "translate_x": 10 * m * image[1] / 224,
            "translate_y": 10 * m * image[0] / 224,
            "cutout": round(int(4 * m) * min(image) / 224),
        }[name]


# The halves of 25 sub-policies for ImageNet: operation, probability in tenths, level of 0 to 9.
_IMAGENET = """
posterize 4 8 rotate 6 9 | solarize 6 5 autocontrast 6 0 | equalize 8 0 equalize 6 0
posterize 6 7 posterize 6 6 | equalize 4 0 solarize 2 4 | equalize 4 0 rotate 8 8
solarize 6 3 equalize 6 0 | posterize 8 5 equalize 10 0 | rotate 2 3 solarize 6 8
equalize 6 0 posterize 4 6 | rotate 8 8 color 4 0 | rotate 4 9 equalize 6 0
equalize 0 0 equalize 8 0 | invert 6 0 equalize 10 0 | color 6 4 contrast 10 8
rotate 8 8 color 10 2 | color 8 8 solarize 8 7 | sharpness 4 7 invert 6 0
shear_x 6 5 equalize 10 0 | color 4 0 equalize 6 0 | equalize 4 0 solarize 2 4
solarize 6 5 autocontrast 6 0 | invert 6 0 equalize 10 0 | color 6 4 contrast 10 8
equalize 8 0 equalize 6 0
"""


def sub_policies() -> list[tuple[tuple[str, float, int], tuple[str, float, int]]]:
    """Return AutoAugment's pairs of (operation, probability, level) for ImageNet."""
    found = []
    for pair in _IMAGENET.replace("\n", "|").strip("|").split("|"):
        a, p, i, b, q, j = pair.split()
        found.append(((a, int(p) / 10, int(i)), (b, int(q) / 10, int(j))))
    return found


@dataclass(frozen=True)
class AutoAugment:
    """Draws one of 25 pairs of operations that were searched for on ImageNet.

    vitrail train --set augment.policy=auto_augment ...
    """

    def draw(self, n: int, image: tuple[int, int], random: np.random.Generator) -> Drawn:
        """Draw for `n` images of size `image` = (H, W)."""
        pairs = sub_policies()
        table = np.array([[OPERATIONS.index(half[0]) for half in pair] for pair in pairs])
        likely = np.array([[half[1] for half in pair] for pair in pairs])
        levels = np.array([[half[2] for half in pair] for pair in pairs])
        chosen = random.integers(0, len(pairs), n)
        acts = random.random((n, 2)) < likely[chosen]
        signs = random.choice((-1, 1), (n, 2))
        amounts = np.zeros((n, 2))
        for index in np.unique(table):
            at = table[chosen] == index
            level = levels[chosen][at] / 9
            amounts[at] = _searched(OPERATIONS[index], level, signs[at])
        return Drawn(np.where(acts, table[chosen], -1), amounts, np.zeros((n, 2, 2)), False)


def _searched(name: str, level: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Return what AutoAugment's levels (m,) from 0 to 1 mean for an operation of its table."""
    if name in _ENHANCE:
        return 1 + 0.9 * level * sign
    match name:
        case "rotate":
            return 30 * level * sign
        case "shear_x":
            return 0.3 * level * sign
        case "posterize":
            return 8 - np.round(4 * level)
        case "solarize":
            return 256 * (1 - level)
    return np.zeros(len(level))


@dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast and colour of each image, in random order.

    Each by a factor between 1 - `strength` and 1 + `strength`; of grey images colour stays as it
    is. What basic recipes of timm have in place of a policy, there 0.4.

        vitrail train --set augment.policy=color_jitter --set augment.policy.strength=0.4 ...
    """

    strength: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strength {self.strength} is not between 0 and 1: 0.4 is usual")

    def draw(self, n: int, image: tuple[int, int], random: np.random.Generator) -> Drawn:
        """Draw for `n` images of size `image` = (H, W)."""
        known = np.array([OPERATIONS.index(name) for name in ("brightness", "contrast", "color")])
        chosen = random.permuted(np.tile(known, (n, 1)), axis=1)
        amounts = random.uniform(1 - self.strength, 1 + self.strength, chosen.shape)
        return Drawn(chosen, amounts, np.zeros((*chosen.shape, 2)), True)


Policy = TimmRandAugment | GoogleRandAugment | AutoAugment | ColorJitter


def _check(operations: int, magnitude: float, most: float) -> None:
    if operations < 1:
        raise ConfigError(f"{operations} operations an image are none: give 1 or more")
    if not 0 <= magnitude <= most:
        raise ConfigError(f"magnitude {magnitude} is not between 0 and {most}")
