"""Teachers: models that are trained already, opened for an objective that learns from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail import digests
from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.normal import Normal
from vitrail.models import catalog, config_json, identify, load
from vitrail.models.trunk.backbone import input_kind
from vitrail.recipes.recipe import Data
from vitrail.run.folder import RunFolder
from vitrail.run.normalisation import normalisation


class Teacher(nn.Module):
    """A trained model, in eval mode, that takes the images of somebody else's training.

    They are brought from the training's normalisation, `seen`, to its own, `own`, and to its image
    size. Where it tells the training's classes in another order, `order` has for each of these the
    place of its logit. `classes` are the names that its outputs have then, none where the weights
    do not say.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        seen: Normal,
        own: Normal,
        classes: Sequence[str] = (),
        order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.classes, self.order = model, tuple(classes), order
        self.image: tuple[int, int] = tuple(model.config.image)  # pyright: ignore
        self.count: int = model.config.classes  # pyright: ignore
        self._takes = seen, own
        # (x seen.std + seen.mean - own.mean) / own.std in one product and one sum.
        pairs = zip(seen.mean, seen.std, own.mean, own.std, strict=True)
        changes = [(s / t, (m - n) / t) for m, s, n, t in pairs]
        self.same = seen == own
        for name, numbers in zip(("factor", "shift"), zip(*changes, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(numbers).view(1, -1, 1, 1), persistent=False)
        self.eval()

    @cached_property
    def digest(self) -> str:
        """Return the digest of what it computes: of its weights, and of what it makes of images."""
        text = f"{config_json(self.model.config)} {self._takes} {self.order}"
        return digests.of_tensors(self.model.state_dict(), text)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) of the training to logits (B, classes)."""
        x = images if self.same else images * self.factor + self.shift  # pyright: ignore
        if tuple(x.shape[-2:]) != self.image:
            x = F.interpolate(x, self.image, mode="bilinear", antialias=True)
        logits = self.model(x)
        logits = logits[0] if isinstance(logits, tuple) else logits
        return logits if self.order is None else logits[:, self.order]


def open_teacher(spec: str, data: Data, classes: Sequence[str]) -> Teacher:
    """Open a model to learn from, for a training on `data` that tells `classes`.

    `spec` is a run folder, a file or folder of weights, `hf-hub:owner/name`, or the name of a
    variant that has published weights, which are then fetched. Raises RunError and CheckpointError
    where it is none of these, ConfigError where its images have other channels.
    """
    if not spec.strip():
        raise ConfigError("no teacher is named: give a run folder, a file of weights or a variant")
    seen = Normal(data.mean, data.std)
    if os.path.isfile(os.path.join(spec, "recipe.json")):
        model, _, labels = RunFolder.open(spec).load_model()
        own = Normal(*(_spread(v, labels.channels) for v in (labels.mean, labels.std)))
        _require_channels(spec, labels.channels, data.channels)
        theirs = labels.classes
        order = None
        if theirs != tuple(classes) and sorted(theirs) == sorted(classes):
            order, theirs = [theirs.index(name) for name in classes], tuple(classes)
        return Teacher(model, seen=seen, own=own, classes=theirs, order=order)
    return _published(spec, seen, data.channels)


def _published(spec: str, seen: Normal, channels: int) -> Teacher:
    """Open weights that were trained elsewhere."""
    reference, model = spec, None
    if spec in catalog():
        hub, model = catalog()[spec].hub, spec
        if not hub:
            raise ConfigError(
                f"no published weights of {spec} are known: give a file of them, or a run folder"
            )
        reference = next(iter(hub.values()))
    known = identify(reference, model)
    if known.rivals:
        raise CheckpointError(
            f"{spec} may be {' or '.join((known.name, *known.rivals))}, which compute different "
            "things with the same tensors: make a run of it by `vitrail load --model`"
        )
    if input_kind(known.config) != "images":
        raise ConfigError(f"{spec} is {known.name}, which takes no images: give another teacher")
    _require_channels(spec, known.config.channels, channels)
    takes = normalisation(reference, known)
    teacher = load(known.config, reference, source=known.source)
    return Teacher(teacher, seen=seen, own=Normal(takes.mean, takes.std))


def _require_channels(spec: str, theirs: int, ours: int) -> None:
    if theirs != ours:
        raise ConfigError(
            f"{spec} takes images of {theirs} channels and this training has {ours}: give another "
            "teacher"
        )


def _spread(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values
