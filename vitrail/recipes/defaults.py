"""What `fit` trains with: settings that are strong for small data and little time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from vitrail.config import kind_of, to_json
from vitrail.data.augment import Augment
from vitrail.models import config_json, family_of, per_frame
from vitrail.models.trunk.backbone import input_kind
from vitrail.objectives import CrossEntropy
from vitrail.recipes.on_boxes import is_detector
from vitrail.recipes.on_inputs import AS_THEY_ARE
from vitrail.recipes.on_maps import is_dense
from vitrail.recipes.recipe import Data, Recipe
from vitrail.training.device import Precision
from vitrail.training.optimizer import AdamW, Muon, Optimizer
from vitrail.training.schedule import Schedule
from vitrail.training.steps import Steps

# What a family learns with, at batch 128; networks of convolutions and BatchNorm bear larger rates.
OPTIMIZERS: dict[str, Optimizer] = {
    "airbench": Muon(lr=0.018, weight_decay=0.1, momentum=0.6, rounds=3),
    "resnet": AdamW(lr=3e-3),
    "levit": AdamW(lr=2e-3),
    "cct": AdamW(lr=1.5e-3),
    "evolving_series": AdamW(lr=1e-3, weight_decay=0.0),
}
FINE_TUNING = AdamW(lr=5e-4, weight_decay=0.05, layer_decay=0.75)


# Images per step on a CPU, at most. It gains nothing by more than that, but where a step of the
# optimizer costs as much as some images do.
LARGEST, LARGEST_OF = 64, {"airbench": 128}


def batch_size(images: int, device: str = "cpu", config: Any = None) -> int:
    """Return the images per step for a training part of that many: an epoch has 64 steps, if it
    can.

    An accelerator gains by large batches.
    """
    of_family = LARGEST if config is None else LARGEST_OF.get(learns_as(config), LARGEST)
    largest = of_family if device == "cpu" else 256
    return 1 << int(math.log2(min(largest, max(8, images // 64))))


def precision_on(device: str) -> Precision:
    """Return in which precision to train where nothing was measured: bfloat16 on CUDA."""
    return "bf16-mixed" if device.startswith("cuda") else "32-true"


def augment_for(image: tuple[int, int]) -> Augment:
    """Return flips and small shifts for small images, flips and crops for photographs.

    Of 28 pixels a shift of one is worth 3 % on Fashion-MNIST in 14 epochs, one of three costs
    as much.
    """
    if max(image) <= 48:
        return Augment(flip=0.5, shift=0.05)
    return Augment(flip=0.5, scale=(0.4, 1.0))


def learns_as(config: Any) -> str:
    """Return the family whose optimizer a network learns with: the host's where there is one of
    maps, of boxes or of frames.
    """
    hosted = is_dense(config) or is_detector(config) or isinstance(config, per_frame.Config)
    return kind_of(type(config.host)) if hosted else family_of(config)


def optimizer_for(config: Any, batch: int, precision: Precision) -> Optimizer:
    """Return what a network learns with from the start, at that many images a step."""
    usual = OPTIMIZERS.get(learns_as(config), AdamW(lr=1e-3))
    usual = replace(usual, lr=round(usual.lr * math.sqrt(batch / 128), 6))
    if isinstance(usual, Muon) and precision == "bf16-mixed":
        usual = replace(usual, dtype="bfloat16")
    return usual


def default(
    config: Any,
    data: Data,
    *,
    images: int,
    total: int,
    seed: int = 0,
    pretrained: str | None = None,
    device: str = "cpu",
    precision: Precision | None = None,
) -> Recipe:
    """Return the recipe of a config for `images` training images and about `total` steps.

    `precision` is the device's usual one unless given.

    Batch, warm-up and average do not depend on when the training ends to the step, so that
    the beginning of a long training and a short one are the same.
    """
    batch, precision = batch_size(images, device, config), precision or precision_on(device)
    usual = optimizer_for(config, batch, precision)
    warmup = max(1, min(30, images // batch // 2, total // 8))
    # The average spans about a twentieth of the training.
    ema = min(0.9995, max(0.8, 1 - 20 / max(1, total)))
    return Recipe(
        model=to_json(config_json(config)),
        data=data,
        steps=Steps(total, batch, ema=round(ema, 5), precision=precision),
        optimizer=FINE_TUNING if pretrained else usual,
        schedule=Schedule(warmup),
        objective=CrossEntropy(0.1),
        augment=AS_THEY_ARE if input_kind(config) == "series" else augment_for(config.image),
        seed=seed,
        pretrained=pretrained,
        head="linear" if pretrained else "random",
    )
