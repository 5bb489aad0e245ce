"""What frozen networks say of the training images, computed once and kept in the cache.

It is what a teacher says, and what a backbone of which only the head is trained makes of them. Only
where each image is shown as it is, or mirrored as well, can answers be counted: then both views are
kept. Crops, shifts, colours, mixes and what is erased make a new picture every time, of which the
network is asked in every step; a student taught by what was said of other pictures than
it sees learns less (Beyer et al., "Knowledge distillation: A good teacher is patient and
consistent", CVPR 2022, arXiv 2106.05237).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vitrail import digests
from vitrail.config import to_json
from vitrail.data.builtin import cache_folder
from vitrail.data.cache import Pixels, kept
from vitrail.data.decode import DECODER
from vitrail.layers.normal import Normal
from vitrail.layers.residual import DropPath
from vitrail.models import Backbone
from vitrail.objectives import Distillation
from vitrail.recipes.recipe import Recipe
from vitrail.run.teachers import Teacher
from vitrail.training.learner import Learner
from vitrail.training.objective import Taught
from vitrail.units import counted

# Answers are held in memory: more than this is computed in every step.
MOST_BYTES = 2 << 30


def known(
    learner: Learner,
    recipe: Recipe,
    images: Pixels,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
) -> np.ndarray | None:
    """Let teachers look up what can be known of `images`; return the features that a head needs.

    These are None where more than a head is trained, or a teacher has to see the images. `say`
    hears when something is computed. Raises DataError where the cache cannot be written.
    """
    remember(learner.objective, recipe, images, device, say)
    if isinstance(recipe.objective, Distillation):
        return None
    return features(learner.train().model, recipe, images, device, say)


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
    if not _pays(recipe, images):
        return
    for module in objective.modules():
        if isinstance(module, Taught) and isinstance(module.inner, Teacher):
            teacher = module.inner
            asked = _Asked(teacher, teacher.digest, teacher.count, "the teacher")
            module.known = asked.answers(recipe, images, device, say)


def features(
    model: nn.Module,
    recipe: Recipe,
    images: Pixels,
    device: torch.device,
    say: Callable[[str], None] = lambda text: None,
) -> np.ndarray | None:
    """Return what the head of a model sees of `images`, float32 (N, views, width).

    None unless the head is all that is trained, and under the conditions of `remember`. Raises
    DataError where the cache cannot be written.
    """
    if not isinstance(model, Backbone) or type(model).forward is not Backbone.forward:
        return None
    outside = [p for n, p in model.named_parameters() if not n.startswith("head.")]
    if any(p.requires_grad for p in outside) or not _pays(recipe, images):
        return None
    if any(isinstance(one, (nn.Dropout, DropPath)) and one.training for one in model.modules()):
        return None
    text = f"{recipe.model} {to_json(recipe.methods)}"
    body = {n: v for n, v in model.state_dict().items() if not n.startswith("head.")}
    asked = _Asked(Embedded(model), digests.of_tensors(body, text), model.width, "the backbone")
    found = asked.answers(recipe, images, device, say)
    return None if found is None else found.numpy()


def _pays(recipe: Recipe, images: Pixels) -> bool:
    """Return whether views can be counted, and a training sees more images than that."""
    views = recipe.augment.views
    return views is not None and recipe.steps.total * recipe.steps.batch >= views * len(images)


class Embedded(nn.Module):
    """What a backbone's head sees, in place of the backbone: (B, width)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.embedding(image)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, eq=False)
class _Asked:
    """A frozen network that says `count` numbers of an image, known by its `digest`."""

    network: nn.Module
    digest: str
    count: int
    called: str

    def answers(
        self, recipe: Recipe, images: Pixels, device: torch.device, say: Callable[[str], None]
    ) -> Tensor | None:
        """Return numbers (N, views, count) in float32, None where there is no room for them."""
        views = recipe.augment.views or 1
        shape = (len(images), views, self.count, 4)

        def blocks() -> Iterator[np.ndarray]:
            say(f"asking {self.called} about {counted(views * len(images), 'picture')}, once")
            return _asked(self.network, recipe, images, device)

        path = cache_folder() / "answers" / f"{_name(self.digest, recipe, images, shape)}.npy"
        found = kept(path, shape, blocks, limit_bytes=MOST_BYTES)
        if found is None:
            return None
        return torch.from_numpy(found.copy().view(np.float32)[..., 0])


@torch.no_grad()
def _asked(
    network: nn.Module, recipe: Recipe, images: Pixels, device: torch.device
) -> Iterator[np.ndarray]:
    """Ask about every image, then about its mirror image: the bytes of (b, views, K) float32."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    normal = Normal(recipe.data.mean, recipe.data.std)
    batches = recipe.task.watching(images, normal)
    network.to(device)
    for batch in batches.iterate(0, stop=batches.steps_per_epoch, workers=1):
        seen = batch.images.to(device)
        shown = [seen, seen.flip(-1)][: recipe.augment.views]
        told = torch.stack([network(view).float() for view in shown], 1).cpu().numpy()
        yield np.ascontiguousarray(told)[..., None].view(np.uint8)
    for module, training in modes.items():
        module.training = training


def _name(digest: str, recipe: Recipe, images: Pixels, shape: tuple[int, ...]) -> str:
    """Return the name by which answers are found again: who answers, about which pictures, how
    these are seen.
    """
    data, part = recipe.data, images.part
    pictures = f"{part.digest} {data.image} {data.channels} {DECODER} {part.source.ranges}"
    text = f"{digest} {pictures} {data.mean} {data.std} {shape}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
