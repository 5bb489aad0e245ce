"""Bases: a trained backbone that many tasks share, each with a small file of what it adds.

A run of an adaptation method with a base stores the tensors that the base and the method alone do
not give, and the digest of the base's weights. Whoever loads the run joins the two again, and what
comes out must have the digest that the whole model had.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitrail import checkpoint, digests
from vitrail.errors import CheckpointError, ConfigError
from vitrail.methods.adapting import adapted_by

WEIGHTS = "weights.safetensors"
KEY = "base"  # in the metadata of a file that has only what a base lacks


class Stored(NamedTuple):
    """What a run with a base writes: the tensors that the base lacks, and which base it is.

    `written` goes into the file's metadata: the digest of the base's weights, and where it lies as
    seen from the run's folder.
    """

    tensors: dict[str, Tensor]
    written: dict[str, str]


def weights_of(reference: str) -> str:
    """Return the weights behind a base: those of a run folder, else the reference itself."""
    inside = os.path.join(reference, WEIGHTS)
    return inside if os.path.isfile(os.path.join(reference, "recipe.json")) else reference


def settled(reference: str) -> str:
    """Return a base's place as an absolute path; anything but a path stays as it is."""
    if not reference.strip():
        raise ConfigError("base is empty: give a run folder or a file of weights")
    return os.path.abspath(reference) if os.path.exists(reference) else reference


def require_adapting(base: str, model: nn.Module) -> None:
    """Raise ConfigError unless a method keeps the base as it is."""
    if not adapted_by(model):
        raise ConfigError(
            f"base {base} is shared, so a method has to leave it as it is: add --set methods=lora, "
            "vpt, adapter, bias_tuning, norm_tuning or freeze, or give it as pretrained to train "
            "all of it"
        )


def digest_of(reference: str) -> str:
    """Return the digest of a base's weights. Raises CheckpointError."""
    return digests.of_tensors(checkpoint.read(weights_of(reference)))


def parted(model: nn.Module, start: nn.Module, base: str, folder: Path) -> Stored:
    """Return what of a trained model has to be stored, as `start` has the rest.

    `start` is made of the base and the methods alone, with new random numbers.
    """
    given = start.state_dict()
    tensors = {
        name: value
        for name, value in model.state_dict().items()
        if name not in given or not torch.equal(value.cpu(), given[name])
    }
    near = os.path.relpath(base, folder) if os.path.exists(base) else base
    return Stored(tensors, {"digest": digest_of(base), "near": near})


def found(base: str, written: Mapping[str, Any], folder: Path) -> str:
    """Return where the base of the run in `folder` is, with the weights that the run was made for.

    Raises CheckpointError where it is gone, or has other weights now.
    """
    near = os.path.join(folder, str(written.get("near", "")))
    places = [place for place in (base, near) if os.path.exists(place)]
    if not places and not base.startswith("hf-hub:"):
        raise CheckpointError(
            f"{base}, the base of {folder}, is not there: put it back, or write where it is as "
            f'"base" into {folder / "recipe.json"}'
        )
    place = (places or [base])[0]
    if digest_of(place) != written.get("digest"):
        raise CheckpointError(
            f"{place} has other weights than the base that {folder} was trained on: restore these, "
            f'or write where they are as "base" into {folder / "recipe.json"}'
        )
    return place
