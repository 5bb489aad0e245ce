"""What an objective may ask for when it is built, beside the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from vitrail.errors import ConfigError
from vitrail.objectives.parts.views import Normal


def _no_models(spec: str) -> nn.Module:
    raise ConfigError(
        f"{spec} cannot be opened as a teacher here: train by a recipe, or give the objective a "
        "Context with open_model"
    )


@dataclass(frozen=True)
class Context:
    """The classes with their numbers of training images, of all `images`; how pixels become numbers
    (`normal`); how to open a model.

    `open_model` maps a run folder, a file of weights or the name of a published variant to a model
    in eval mode on images as the training sees them. It belongs into `Frozen`, and raises
    VitrailError.
    """

    classes: Sequence[str] = ()
    counts: Sequence[int] = ()
    images: int = 0
    normal: Normal = field(default_factory=lambda: Normal((0.5,), (0.25,)))
    open_model: Callable[[str], nn.Module] = _no_models
