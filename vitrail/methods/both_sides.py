"""Both sides: a network answers by an image and by its mirror image.

Averaging over an image and its mirror image at test time is as old as deep networks (Krizhevsky,
Sutskever, Hinton, NeurIPS 2012); of the speed records on small images it is worth most of what
averaging over views brings (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv
2404.00498). It costs as much as a second image, and suits whatever was trained with flips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.methods.method import Quiet
from vitrail.models.trunk.backbone import Backbone, input_kind


@dataclass(frozen=True)
class BothSides(Quiet):
    """Averages the logits of an image and of its mirror image, in eval mode; training stays.

    Parameters keep their names; maps and features are those of the image alone.

    vitrail train --set model=resnet_18 --set methods=both_sides --set data=photos
    """

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model is a backbone of images that answers by one side."""
        if not isinstance(model, Backbone) or input_kind(model.config) != "images":
            raise ConfigError(
                "both_sides needs a network that answers about whole images, such as resnet or "
                "vit: leave it out"
            )
        if _averaged in model._forward_hooks.values():
            raise ConfigError("both_sides is applied twice: leave one out")

    def apply(self, model: nn.Module) -> nn.Module:
        """Let the model see the mirror image as well; returns it."""
        model.register_forward_hook(_averaged)
        return model


def removed(model: nn.Module) -> nn.Module:
    """Let a model answer by the image alone again, whether or not the method was applied; returns
    it."""
    for key in [key for key, hook in model._forward_hooks.items() if hook is _averaged]:
        del model._forward_hooks[key]
    return model


def _averaged(
    model: nn.Module, args: tuple[Any, ...], logits: Float[Tensor, "b k"]
) -> Float[Tensor, "b k"] | None:
    """Return the mean of what a model says of its images and of their mirror images."""
    if model.training:
        return None
    image, *rest = args
    return (logits + model.forward(image.flip(-1), *rest)) / 2
