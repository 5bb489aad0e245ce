"""Published recipes, each as one value: read, compare, change, train by `--recipe NAME`.

What no recipe here has: timm's colour jitter where its RandAugment replaces it; cubic interpolation
of crops (ours is linear); evaluation on a central crop, or at another size than in training (images
are resized whole); Adam's first moment in bfloat16, which AugReg and Mixer kept to save memory.
ImageNet's mean and deviation, or [-1, 1], become those of the data at hand. The ten epochs at the
lowest rate that the options of DeiT, CaiT, XCiT, LeViT and CvT name are in no recipe but NAT's and
the robust ones: the loops of the others stop before them.
"""

from __future__ import annotations

from difflib import get_close_matches

from vitrail.errors import ConfigError
from vitrail.recipes.paper import Published
from vitrail.recipes.published.boxes import ON_COCO
from vitrail.recipes.published.deit import (
    CAIT,
    CONVNEXT,
    CVT,
    DEIT,
    DEIT_DISTILLED,
    LEVIT,
    NAT,
    SWIN,
    VIT_C,
    XCIT,
)
from vitrail.recipes.published.google import LEVELS, MAXVIT, MIXER, augreg
from vitrail.recipes.published.robust import ROBUST_CANONICAL, ROBUST_LIGHT
from vitrail.recipes.published.rsb import RSB_A1, RSB_A2, RSB_A3

RECIPES: dict[str, Published] = {
    one.name: one
    for one in [
        DEIT, DEIT_DISTILLED, CAIT, XCIT, LEVIT, CVT, SWIN, NAT, CONVNEXT, VIT_C, MAXVIT, MIXER,
        RSB_A1, RSB_A2, RSB_A3, ROBUST_LIGHT, ROBUST_CANONICAL,
        *ON_COCO,
        *(augreg(level, more) for more in (False, True) for level in LEVELS),
    ]
}  # fmt: skip


def published(name: str) -> Published:
    """Return a published recipe by its name. Raises ConfigError, with the nearest names."""
    if name not in RECIPES:
        near = get_close_matches(name, [*RECIPES], n=3, cutoff=0.5)
        near = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(RECIPES)}"
        raise ConfigError(f"recipe {name!r} does not exist: {near}")
    return RECIPES[name]
