"""What a teacher says of the training images, computed once and kept in the cache.

Only where each image is shown as it is, or mirrored as well, can its answers be counted: then both
views are kept. Crops, shifts, colours, mixes and what is erased make a new picture every time, of
which the teacher is asked in every step; a student taught by what was said of other pictures than
it sees learns less (Beyer et al., "Knowledge distillation: A good teacher is patient and
consistent", CVPR 2022, arXiv 2106.05237).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from vitrail.data.builtin import cache_folder
from vitrail.data.cache import Pixels, kept
from vitrail.data.decode import DECODER
from vitrail.recipes.recipe import Recipe
from vitrail.run.teachers import Teacher
from vitrail.tasks.task import Normal
from vitrail.training.objective import Taught
from vitrail.units import counted

# Answers are held in memory: more than this is computed in every step.
MOST_BYTES = 2 << 30


def remember(
    objective: nn.Module,
    recipe: Recipe,
    images: Pixels,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Let the teachers of an objective look up what they say of `images`, where that may be.

    It may where augmentation shows each image in one or two views, where the training sees as many
    images as there are views, and where the cache has room. Raises DataError where that cannot be
    written.
    """
    views = recipe.augment.views
    if views is None or recipe.steps.total * recipe.steps.batch < views * len(images):
        return
    for module in objective.modules():
        if isinstance(module, Taught) and isinstance(module.inner, Teacher):
            module.known = _answers(module.inner, recipe, images, device, say)


def _answers(
    teacher: Teacher,
    recipe: Recipe,
    images: Pixels,
    device: torch.device,
    say: Callable[[str], None],
) -> torch.Tensor | None:
    """Return logits (N, views, K) in float32, None where there is no room for them."""
    views = recipe.augment.views or 1
    shape = (len(images), views, teacher.count, 4)

    def blocks() -> Iterator[np.ndarray]:
        say(f"asking the teacher about {counted(views * len(images), 'picture')}, once")
        return _asked(teacher, recipe, images, device)

    path = cache_folder() / "answers" / f"{_name(teacher, recipe, images, shape)}.npy"
    found = kept(path, shape, blocks, limit_bytes=MOST_BYTES)
    if found is None:
        return None
    return torch.from_numpy(found.copy().view(np.float32)[..., 0])


@torch.no_grad()
def _asked(
    teacher: Teacher, recipe: Recipe, images: Pixels, device: torch.device
) -> Iterator[np.ndarray]:
    """Ask about every image, then about its mirror image: the bytes of (b, views, K) float32."""
    normal = Normal(recipe.data.mean, recipe.data.std)
    batches = recipe.task.watching(images, normal)
    teacher.to(device)
    for batch in batches.iterate(0, stop=batches.steps_per_epoch, workers=1):
        seen = batch.images.to(device)
        shown = [seen, seen.flip(-1)][: recipe.augment.views]
        logits = torch.stack([teacher(view).float() for view in shown], 1).cpu().numpy()
        yield np.ascontiguousarray(logits)[..., None].view(np.uint8)


def _name(teacher: Teacher, recipe: Recipe, images: Pixels, shape: tuple[int, ...]) -> str:
    """By which answers are found again: who answers, about which pictures, how these are seen."""
    data, part = recipe.data, images.part
    pictures = f"{part.digest} {data.image} {data.channels} {DECODER} {part.source.ranges}"
    text = f"{teacher.digest} {pictures} {data.mean} {data.std} {shape}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
