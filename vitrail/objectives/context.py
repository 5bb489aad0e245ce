"""What an objective may ask for when it is built, beside the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn


def _no_models(reference: str) -> nn.Module:
    raise NotImplementedError(f"nobody here can open {reference}")


@dataclass(frozen=True)
class Context:
    """The classes with their numbers of training images, of all `images`; how to open a model.

    `open_model` maps a run folder or a file of weights to a model in eval mode on images as the
    training sees them; it raises VitrailError.
    """

    classes: Sequence[str] = ()
    counts: Sequence[int] = ()
    images: int = 0
    open_model: Callable[[str], nn.Module] = _no_models
