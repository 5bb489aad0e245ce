"""FlexiViT as a method: a patch size drawn for every step, so that one set of weights has many.

Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR 2023, arXiv 2212.08013. The kernel
that cuts the patches is PI-resized and the positions behind it are resampled on the way, both
differentiably, so that what is learned stays of one size. Beyond the paper it takes pyramids whose
first map is one convolution's, which then see maps of other sizes, and stems of overlapping
convolutions, whose first kernel, stride and padding are scaled together.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail.errors import ConfigError, VitrailError
from vitrail.layers.flexible import Flexible
from vitrail.methods.dropped_windows import DroppedMap
from vitrail.methods.flexible_stem import FlexibleStem, first_convolution, geometry, place
from vitrail.methods.method import Seam, available, seams
from vitrail.models.trunk.backbone import input_shape
from vitrail.models.trunk.catalog import skeleton
from vitrail.training.objective import Step

# The paper's sizes are 8 to 48 pixels where its models' own is 16.
SMALLEST, LARGEST = 0.5, 3.0
_STREAM = zlib.crc32(b"flexivit")  # its draws are independent of all others of the same step


@dataclass(frozen=True)
class Flexivit:
    """Draws a patch size for every training step, the same for all images and processes.

    `patches` are sizes in pixels that divide the image; by default all those from half to three
    times the model's own that do, and that the model takes. Outside of training the model cuts
    patches of `test_patch` pixels, by default of its own size; `choose` sets another.

    vitrail train --set model=deit_tiny --set methods=flexivit --set methods.0.patches=8,16,32

    Examples:
        >>> model = Flexivit((8, 16, 32)).apply(vitrail.create("deit_tiny")).eval()
        >>> choose(model, 32).features(torch.zeros(1, 3, 224, 224))[0].shape
        torch.Size([1, 7, 7, 192])
    """

    patches: tuple[int, ...] = ()
    test_patch: int | None = None

    def __post_init__(self) -> None:
        if any(patch < 1 for patch in self.patches) or len({*self.patches}) < len(self.patches):
            raise ConfigError(
                f"patches is {self.patches}: give different sizes of 1 pixel or more, or none for "
                "all that divide the image"
            )
        if self.test_patch is not None and self.test_patch < 1:
            raise ConfigError(
                f"test_patch is {self.test_patch}: give a size of 1 pixel or more, or none for the "
                "model's own"
            )

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model takes each of the patch sizes, or several."""
        if any(isinstance(module, DroppedMap) for module in model.modules()):
            raise ConfigError(
                "flexivit comes after patch_dropout, whose windows would not divide the maps of "
                "other patch sizes: take one of them"
            )
        sizes(_config(model), self.patches)
        if self.test_patch is not None:
            sizes(_config(model), (self.test_patch,))

    def apply(self, model: nn.Module) -> nn.Module:
        """Make the model's stem flexible, in place; returns the model."""
        found = sizes(_config(model), self.patches)
        _flexible(model).patches = found
        return model if self.test_patch is None else choose(model, self.test_patch)

    def before_step(self, model: nn.Module, step: Step) -> None:
        """Draw the step's patch size: a function of the training's seed and the step alone."""
        for stem in stems(model):
            if stem.patches:
                words = np.random.SeedSequence((step.seed, step.number, _STREAM))
                (word,) = words.generate_state(1, np.uint64)
                stem.draw(stem.patches[int(word) % len(stem.patches)])


@lru_cache(maxsize=64)
def sizes(config: Any, wanted: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return the patch sizes that the model of a config takes: those `wanted`, or all.

    Raises ConfigError, in a sentence, where it does not take one that is wanted, or none but its
    own.
    """
    model = deepcopy(skeleton(config)).train()
    stem, (h, w) = _flexible(model), config.image
    for patch in wanted:
        if trouble := _trouble(model, stem, patch):
            raise ConfigError(f"patches has {patch}: {trouble}")
    if wanted:
        return wanted
    first, last = max(1, round(SMALLEST * stem.own)), int(LARGEST * stem.own)
    fitting = [p for p in range(first, last + 1) if h % p == w % p == 0]
    found = tuple(p for p in fitting if not _trouble(model, stem, p))
    if len(found) < 2:
        raise ConfigError(
            f"flexivit finds no other patch than {stem.own}, from {first} to {last} pixels, that "
            f"this model takes on images of {h}x{w}: give another image or another model"
        )
    return found


def stems(model: nn.Module) -> list[Flexible]:
    """Return the stems of a model whose patch size may be chosen: one, or none."""
    return [module for module in model.modules() if isinstance(module, Flexible)]


def choose(model: nn.Module, patch: int) -> nn.Module:
    """Set the patch size, in pixels, at which a flexible model runs from now on; returns the model.

    Raises ConfigError for a model that has none to choose, and a size that it cannot take.

    Examples:
        >>> model = vitrail.create("flexivit_s").eval()
        >>> choose(model, 48).features(torch.zeros(1, 3, 240, 240))[0].shape
        torch.Size([1, 5, 5, 384])
    """
    found = stems(model)
    if not found:
        raise ConfigError(
            "this model has one patch size only: train it with methods=flexivit, or take a model "
            "of the family flexivit"
        )
    if (said := _misfit(found[0], patch)) is not None:
        raise ConfigError(f"patch is {patch}: {said}")
    for stem in found:
        stem.choose(patch)
    return model


def removed(model: nn.Module) -> nn.Module:
    """Put a model's own stem back in place of the flexible one; returns the model."""
    for seam in _named(model, FlexibleStem):
        seam.replace(seam.module.get_submodule("stem"))
    return model


def _config(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    if config is None:
        raise ConfigError(_refusal(available(model)))
    return config


def _flexible(model: nn.Module) -> Flexible:
    """Return the flexible stem of a model, made if it has none yet. Raises
    ConfigError without a seam.
    """
    if found := stems(model):
        return found[0]
    config = _config(model)
    at = place(config) if len(input_shape(config)) == 3 else None
    seam = None if at is None else next(iter(_named(model, at.kind)), None)
    if at is None or seam is None:
        raise ConfigError(_refusal(available(model)))
    stem = FlexibleStem(seam.module, config, at)
    stem.train(seam.module.training)
    seam.replace(stem)
    return stem


def _refusal(names: Iterable[str]) -> str:
    return (
        "flexivit needs a model of images whose first map is cut by one convolution, such as vit, "
        f"deit, cait, xcit, swin or pvt; this one has the seams {', '.join(names)}"
    )


def _named(model: nn.Module, kind: type[nn.Module]) -> list[Seam]:
    names = [name for name, module in model.named_modules() if name and type(module) is kind]
    return [seam for name in names for seam in seams(model, name)]


def _misfit(stem: Flexible, patch: int) -> str | None:
    """Return why a stem has no such size, None where it has."""
    if patch < 1:
        return "give a size of 1 pixel or more"
    if not isinstance(stem, FlexibleStem):
        return None
    found = first_convolution(stem.stem, stem.config.channels)
    if found is not None and geometry(found[1], stem.own, patch) is None:
        kernel, stride = found[1].kernel_size[0], found[1].stride[0]
        return (
            f"this model's first convolution, {kernel}x{kernel} of stride {stride}, scales to "
            f"whole pixels only for multiples of its patch {stem.own}"
        )
    return None


def _trouble(model: Any, stem: Flexible, patch: int) -> str | None:
    """Return why a model without values does not take a patch size, None where it does."""
    h, w = model.config.image
    if (said := _misfit(stem, patch)) is not None:
        return said
    if h % patch or w % patch:
        return f"it does not divide the image of {h}x{w}: give sizes that do"
    stem.draw(patch)
    try:
        if isinstance(stem, FlexibleStem):
            stem.require_tables((h // patch * stem.own, w // patch * stem.own))
        with torch.no_grad():
            model(torch.zeros(2, *input_shape(model.config), device="meta"))
    except VitrailError as error:
        return str(error)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"the model does not take so many patches ({str(error).splitlines()[0][:120]})"
    return None
