"""What `vitrail pretrain` trains with: the papers' settings, scaled to the pictures and the time.

Papers train for hundreds of epochs on a million images. For few pictures and minutes heads are
smaller, the teacher follows sooner and small images have fewer small crops; each is a field
of the recipe that `--set` changes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, get_args

from vitrail.config import nearest, to_json
from vitrail.data.augment import Augment
from vitrail.errors import ConfigError
from vitrail.models import config_json, resolve
from vitrail.objectives import AttMask, Dino, Ibot, Mae, Sit, Unlabelled
from vitrail.objectives.parts.crops import Crops
from vitrail.objectives.parts.distilled import Teaching
from vitrail.recipes.defaults import batch_size, precision_on
from vitrail.recipes.recipe import Data, Recipe
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Cosine
from vitrail.training.steps import Steps

Method = Literal["sit", "attmask", "dino", "ibot", "mae"]
METHODS: tuple[str, ...] = get_args(Method)
SMALL_SIDE = 64
# Where the weight decay ends, which begins at 0.04: SiT's second version has less. MAE's stays.
DECAYS = {"sit": 0.1, "attmask": 0.4, "dino": 0.4, "ibot": 0.4}
# The papers' trainings are longer than this; a shorter one has a teacher that follows sooner.
LONG = 50_000
# Nothing: views are the objective's own.
AS_IT_IS = Augment(flip=0.0, shift=0.0)


def known_method(name: str) -> str:
    """Return a method's name in lower case. Raises ConfigError for one that does not exist."""
    method = name.strip().lower().replace("-", "").replace("_", "")
    if method not in METHODS:
        raise ConfigError(f"--method {name!r} does not exist: {nearest(method, METHODS)}")
    return method


def usual_model(size: tuple[int, int], channels: int, device: str) -> Any:
    """Return the Config that is trained where none is asked for: a DeiT with a class token.

    `size` (H, W) is the median of the pictures. On a CPU it has four blocks of width 128.
    """
    side = min(224, max(32, min(size)))
    image = tuple(size) if max(size) <= SMALL_SIDE else (side // 16 * 16,) * 2
    patch = next(p for p in (4, 7, 8, 16) if _cuts(image, p, 64) or p == 16)
    image = tuple(max(1, round(s / patch)) * patch for s in image)
    sizes = {"dim": 128, "heads": 4, "hidden": 512, "depth": 4} if device == "cpu" else {}
    name = "deit_tiny" if device == "cpu" else "deit_small"
    return resolve(name, image=image, patch=patch, channels=channels, classes=0, **sizes)


def _cuts(image: tuple[int, ...], patch: int, most: int) -> bool:
    """Return whether an image is cut into whole patches, at most so many."""
    return all(s % patch == 0 for s in image) and math.prod(s // patch for s in image) <= most


def usual_objective(method: str, images: int, image: tuple[int, int], total: int) -> Unlabelled:
    """Return a method's objective for so many pictures, their size and steps."""
    epochs = total * batch_size(images) / images
    follows = 0.996 if total >= LONG else 0.99
    # A head of as many outputs as a sixteenth of the images, between 256 and the paper's 8192.
    outputs = min(8192, max(256, 1 << int(math.log2(max(1, images // 16)))))
    small = max(image) <= SMALL_SIDE
    teaching = Teaching(
        outputs, 512 if small else 2048, momentum=follows, warming=min(30, int(0.3 * epochs)),
        held=min(1.0, 0.1 * epochs),
    )  # fmt: skip
    crops = Crops(number=2) if small else Crops(number=6)
    if method == "sit":
        return Sit(hidden=1024 if small else 4096, momentum=follows)
    if method == "mae":
        return Mae(dim=128, depth=2, heads=4) if small else Mae()
    kinds: dict[str, type[AttMask | Ibot | Dino]] = {"attmask": AttMask, "ibot": Ibot, "dino": Dino}
    return kinds[method](crops=crops, teaching=teaching)


def usual_pretraining(
    method: str, config: Any, data: Data, *, images: int, total: int, device: str, seed: int = 0
) -> Recipe:
    """Return the recipe of a method for a config without a head, pictures and steps.

    The learning rate is 5e-4 for 256 images and follows the root of the batch.
    """
    batch = batch_size(images, device)
    rate = 5e-4 * math.sqrt(batch / 256)
    warmup = max(1, min(total // 10, 10 * max(1, images // batch)))
    betas = (0.9, 0.95) if method == "mae" else (0.9, 0.999)
    return Recipe(
        model=to_json(config_json(config)),
        data=data,
        steps=Steps(total, batch, clip=3.0, ema=None, precision=precision_on(device)),
        optimizer=AdamW(
            lr=round(rate, 6), weight_decay=0.04, betas=betas, final_decay=DECAYS.get(method)
        ),
        schedule=Cosine(warmup, floor=0.002),
        objective=usual_objective(method, images, tuple(config.image), total),
        augment=AS_IT_IS,
        seed=seed,
    )


def require_batch(recipe: Recipe, images: int) -> None:
    """Raise ConfigError for fewer pictures than one batch, or a batch of one."""
    batch = recipe.steps.batch
    if images < batch:
        raise ConfigError(
            f"{images} pictures are fewer than one batch of {batch}: give more, or --set "
            f"steps.batch={max(2, 1 << int(math.log2(max(2, images))))}"
        )
    if batch // recipe.steps.accumulate < 2:
        raise ConfigError(
            "a batch of one picture has nothing to be told from: give --set steps.batch=8 or more"
        )


def lengthened(recipe: Recipe, total: int, images: int) -> Recipe:
    """Return a recipe for another number of steps, warm-up in proportion."""
    warmup = max(1, min(total // 10, 10 * max(1, images // recipe.steps.batch)))
    return replace(
        recipe,
        steps=replace(recipe.steps, total=total),
        schedule=replace(recipe.schedule, warmup=warmup),
    )
