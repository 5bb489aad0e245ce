"""Published weights as the start of a training: everything but the head, at another image size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vitrail.errors import CheckpointError
from vitrail.models import Backbone, create, identify, load
from vitrail.models.trunk.backbone import input_kind, input_words


def start(config: Any, reference: str | None) -> Backbone:
    """A model of `config` with random weights, or with those behind `reference` but its head.

    Raises CheckpointError when the file does not hold this model, or cannot be fetched.
    """
    model = create(config)
    if reference is None:
        return model
    known = identify(reference)
    if input_kind(known.config) != input_kind(config):
        raise CheckpointError(
            f"{reference} is {known.name}, which takes {input_words(known.config)}, and the model "
            f"{input_words(config)}: give weights of a model like it"
        )
    source = None if known.source == "vitrail" else known.source
    donor = load(known.config, reference, source=source, image=config.image).state_dict()
    ours = model.state_dict()
    strange = [
        name
        for name, value in ours.items()
        if (name not in donor or donor[name].shape != value.shape) and not _in_head(name)
    ]
    if strange:
        raise CheckpointError(
            f"{reference} does not fill {_some(strange)} of the model at "
            f"{config.image[0]}x{config.image[1]}: take it at its own image size"
        )
    with torch.no_grad():
        for name, value in ours.items():
            if not _in_head(name):
                value.copy_(donor[name])
    return model


def _in_head(name: str) -> bool:
    return name.startswith("head")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more
