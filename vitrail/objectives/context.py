"""What an objective may ask for when it is built, beside the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from vitrail.errors import ConfigError
from vitrail.layers.normal import Normal


def _no_models(spec: str) -> nn.Module:
    raise ConfigError(
        f"{spec} cannot be opened as a teacher here: train by a recipe, or give the objective a "
        "Context with open_model"
    )


@dataclass(frozen=True)
class Context:
    """The classes with their numbers of training images, of all `images`; how to open a model.

    `mean` and `std` per channel, in units of 0 to 1, are what the images were normalised by.

    `open_model` maps a run folder, a file of weights or the name of a published variant to a model
    in eval mode on images as the training sees them. It belongs into `Frozen`, and raises
    VitrailError.
    """

    classes: Sequence[str] = ()
    counts: Sequence[int] = ()
    images: int = 0
    open_model: Callable[[str], nn.Module] = _no_models
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def normal(self) -> Normal:
        """Return how pixels became numbers. Raises ConfigError where nobody said so."""
        if not self.mean or len(self.mean) != len(self.std):
            raise ConfigError(
                "this objective needs to know pixels, and nothing says how images are normalised: "
                "train by a recipe, or give it a Context with mean and std"
            )
        return Normal(self.mean, self.std)
