"""Published weights as the start of a training: everything but the head, at another image size.

At another patch size too, as FlexiViT's students begin with their teachers (Beyer et al., CVPR
2023, arXiv 2212.08013): the kernel is PI-resized, and positions are resampled by an antialiased
triangle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import CheckpointError, ConfigError
from vitrail.layers.pi_resize import pi_resize
from vitrail.layers.position import triangle_grid
from vitrail.methods.flexible_stem import SEAMS
from vitrail.models import (
    Backbone,
    Identity,
    create,
    identify,
    load,
    module_of,
    per_frame,
    vatt_clips,
    vatt_images,
    vatt_sounds,
)
from vitrail.models.parts.range_start import from_images
from vitrail.models.parts.vatt_headed import name_in
from vitrail.models.parts.vatt_tokens import resampled
from vitrail.models.trunk.backbone import input_kind, input_words
from vitrail.models.trunk.catalog import skeleton
from vitrail.models.trunk.positions import rows

# What one tower of a network of clips, sounds and sentences becomes, and where its positions are.
TOWERS = (vatt_clips.Config, vatt_sounds.Config, vatt_images.Config)
POSITIONS = "tower.placed.position.tables."


def start(config: Any, reference: str | None, *, keep_head: bool = False) -> Backbone:
    """Return a model of `config` with random weights, or with those behind `reference` but its
    head.

    With `keep_head` that comes along. Raises CheckpointError when the file does not hold this
    model, or cannot be fetched.
    """
    model = create(config)
    if reference is None:
        return model
    known = identify(reference)
    holds = [hasattr(module_of(one), "DENSE") or _by_frame(one) for one in (config, known.config)]
    if holds == [True, False]:
        return _hosting(model, config, reference)
    kinds = input_kind(known.config), input_kind(config)
    if kinds == ("images", "pairs"):
        return _towered(model, config, reference)
    if kinds == ("images", "scans"):
        return _seeing(model, config, reference)
    if kinds[0] == "triples" and isinstance(config, TOWERS):
        return _of_tower(model, known, reference)
    if kinds == ("images", "clips") and type(known.config) is type(config):
        return _inflated(model, known, reference)
    if kinds[0] != kinds[1]:
        raise CheckpointError(
            f"{reference} is {known.name}, which takes {input_words(known.config)}, and the model "
            f"{input_words(config)}: give weights of a model like it"
        )
    source = None if known.source == "vitrail" else known.source
    ours = model.state_dict()
    if other_patch(known.config, config):
        donor = repatched(load(known.config, reference, source=source), config)
    else:
        donor = load(known.config, reference, source=source, image=config.image).state_dict()
    strange = [
        name
        for name, value in ours.items()
        if (name not in donor or donor[name].shape != value.shape)
        and (keep_head or not _in_head(name))
    ]
    if strange:
        raise CheckpointError(
            f"{reference} does not fill {_some(strange)} of the model at "
            f"{config.image[0]}x{config.image[1]}: take it at its own image size"
        )
    with torch.no_grad():
        for name, value in ours.items():
            if keep_head or not _in_head(name):
                value.copy_(donor[name])
    return model


def _of_tower(model: Backbone, known: Identity, reference: str) -> Backbone:
    """Fill a tower of clips, or of sounds, with the weights that it learned beside the others.

    Positions are resampled for inputs of another size. Raises CheckpointError where weights are of
    other sizes.
    """
    donor = load(known.config, reference).state_dict()
    ours = {name: value for name, value in model.state_dict().items() if not _in_head(name)}
    of_sounds, behind = input_kind(model.config) == "waves", model.config.behind
    kind, called = ("audio", "sounds") if of_sounds else ("video", "clips")
    found = {name: donor.get(name_in(name, kind, behind)) for name in ours}
    for name, value in found.items():
        if name.startswith(POSITIONS) and value is not None:
            found[name] = resampled(value, len(ours[name]))
    strange = [n for n, value in found.items() if value is None or value.shape != ours[n].shape]
    if strange:
        raise CheckpointError(
            f"{reference} does not fill {_some(strange)} of the tower of {called}: take its own "
            "sizes by --set model=RUN/recipe.json"
        )
    _fill(ours, found)
    return model


def _inflated(model: Backbone, known: Identity, reference: str) -> Backbone:
    """Fill the network of clips with the weights of one of images, as Carreira and Zisserman
    inflate them (CVPR 2017, arXiv 1705.07750): kernels are repeated over time and divided by how
    often, so that a picture that stands still shows what it showed. What is of time alone stays as
    it is.

    Raises CheckpointError where something else is not filled.
    """
    source = None if known.source == "vitrail" else known.source
    donor = load(known.config, reference, source=source, image=model.config.image).state_dict()
    ours = {name: value for name, value in model.state_dict().items() if not _in_head(name)}
    filled = {name: _over_time(donor[name], ours[name]) for name in ours if name in donor}
    strange = [name for name in ours if filled.get(name) is None and not _of_time(name)]
    if strange:
        raise CheckpointError(
            f"{reference} is {known.name}, which does not fill {_some(strange)} of the network of "
            "clips: give weights of the same sizes"
        )
    _fill(ours, filled)
    return model


@torch.no_grad()
def _fill(ours: Mapping[str, Tensor], found: Mapping[str, Tensor | None]) -> None:
    """Write tensors into those of a model by their names; None leaves one as it is."""
    for name, value in found.items():
        if value is not None:
            ours[name].copy_(value)


def _over_time(value: Tensor, own: Tensor) -> Tensor | None:
    """Return a tensor of images as one of clips of that shape; None where it is of another."""
    if value.shape == own.shape:
        return value
    kernel = value.ndim + 1 == own.ndim == 5
    if kernel and own.shape[:2] == value.shape[:2] and own.shape[3:] == value.shape[2:]:
        return value[:, :, None].expand(own.shape) / own.shape[2]
    return None


def _of_time(name: str) -> bool:
    return name.endswith(("stem.time", "position.t"))


def _by_frame(config: Any) -> bool:
    return isinstance(config, per_frame.Config)


def _hosting(model: Backbone, config: Any, reference: str) -> Backbone:
    """Fill the network of maps, or of frames, with the weights of a classifier in its backbone.

    Raises CheckpointError where the file is of another backbone.
    """
    backbone: Backbone = model.get_submodule("backbone")  # pyright: ignore[reportAssignmentType]
    try:
        host = replace(config.host, classes=0 if _by_frame(config) else 1)
        module_of(host)
    except ConfigError as error:
        raise CheckpointError(
            f"{reference} is of a classifier, and the model's own encoder is none: name the model "
            "by its backbone, as model=deit_tiny"
        ) from error
    donor, ours = start(host, reference).state_dict(), backbone.state_dict()
    strange = [n for n in ours if n not in donor or donor[n].shape != ours[n].shape]
    if strange:
        raise CheckpointError(f"{reference} does not fill {_some(strange)} of the backbone")
    with torch.no_grad():
        for name, value in ours.items():
            value.copy_(donor[name])
    return model


def _towered(model: Backbone, config: Any, reference: str) -> Backbone:
    """Fill the network of pairs with the weights of a classifier in its image tower.

    Raises CheckpointError where the file is of another tower.
    """
    tower: Backbone = model.get_submodule("tower")  # pyright: ignore[reportAssignmentType]
    donor = start(config.tower, reference).state_dict()
    with torch.no_grad():
        for name, value in tower.state_dict().items():
            value.copy_(donor[name])
    return model


def _seeing(model: Backbone, config: Any, reference: str) -> Backbone:
    """Fill the network of scans with what a ViT of images gives it: blocks, token, positions, and
    the patches' kernel where it has one. Raises CheckpointError.
    """
    known = identify(reference)
    source = None if known.source == "vitrail" else known.source
    donor = load(known.config, reference, source=source)
    state, ours = donor.state_dict(), model.state_dict()
    if "embed.position" not in state or "embed.token" not in state:
        raise CheckpointError(
            f"{reference} is {known.name}, and a network of scans begins with a ViT or a DeiT: "
            "give weights of one"
        )
    side = math.isqrt(state["embed.position"].shape[1])
    try:
        own = from_images(config, state, side)
    except ValueError as error:
        raise CheckpointError(f"{reference}: {error}") from error
    blocks = {n for n in ours if n.startswith(("blocks.", "norm.", "embed."))}
    strange = sorted(n for n in blocks | own.keys()
                     if n not in own or n not in ours or own[n].shape != ours[n].shape)  # fmt: skip
    if strange:
        raise CheckpointError(
            f"{reference} does not fill {_some(strange)} of the model: give both one depth and "
            "width"
        )
    with torch.no_grad():
        for name, value in own.items():
            ours[name].copy_(value)
    return model


def other_patch(old: Any, new: Any) -> bool:
    """Return whether the model of a config cuts its image by a kernel of another size than `old`'s,
    and is called alike in all else."""
    theirs, ours = (skeleton(config).state_dict() for config in (old, new))
    alike = {n for n in theirs if not _in_head(n)} == {n for n in ours if not _in_head(n)}
    return alike and any(_resized(n, theirs[n], ours[n]) for n in theirs if n in ours)


def repatched(donor: Backbone, config: Any) -> dict[str, Tensor]:
    """Return the weights of a model for one of another patch size, and of another image."""
    own, found = skeleton(config), dict(donor.state_dict())
    shapes, learned = own.state_dict(), {name for name, _ in own.named_parameters()}
    for name, value in donor.state_dict().items():
        if name in shapes and _resized(name, value, shapes[name]):
            found[name] = pi_resize(value, (shapes[name].shape[2], shapes[name].shape[3]))
    grids = _grids(config, found)
    for name, (table, old) in _grids(donor.config, found).items():
        if name in grids:
            moving = replace(table, zoom=triangle_grid) if name in learned else grids[name][0]
            found[name] = moving.moved(found[name], old, grids[name][1])
    return found


def _resized(name: str, value: Tensor, own: Tensor) -> bool:
    """Return whether a tensor is a stem's kernel that differs in its sides alone."""
    kernels = value.ndim == own.ndim == 4 and value.shape[:2] == own.shape[:2]
    return kernels and value.shape != own.shape and name.startswith(SEAMS)


def _grids(config: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return rows of a config's tables of positions and the grids that they are for, by names."""
    return {
        name: (table, table.grid(config, *numbers))
        for table in rows(config, module_of(config))
        for name in names
        if (numbers := table.numbers(name)) is not None
    }


def _in_head(name: str) -> bool:
    return name.startswith("head")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more
