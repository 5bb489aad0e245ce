"""A model with the weights of a file, at the sizes that the file or its caller wants."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail import checkpoint
from vitrail.checkpoint import Mismatch
from vitrail.errors import CheckpointError
from vitrail.models.trunk.adapt import laid_out, rechannelled
from vitrail.models.trunk.backbone import Backbone, input_kind
from vitrail.models.trunk.catalog import bare, config_name, create, module_of, resolve, skeleton
from vitrail.models.trunk.identify import identify_state
from vitrail.models.trunk.nearest import in_file_names
from vitrail.models.trunk.positions import resampled
from vitrail.models.trunk.readings import Reading, light, read, tables, unwrapped
from vitrail.models.trunk.told import aspect, headed, told

Moved = tuple[dict[str, Tensor], Any]


def load(
    name_or_config: Any,
    path_or_state_dict: str | os.PathLike | Mapping[str, Tensor],
    *,
    source: str | None = None,
    image: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Return a model with given weights, in eval mode, built and computed in `dtype`.

    A name stands for its variant at the classes, channels and image that the file tells, a Config
    for itself. `source` picks a name table ("timm", "transformers", "microsoft/CvT" ...); without
    it all tables of the family are tried. `image` moves the model to another image size: positions
    are resampled as its paper does. `channels` moves it to images of so many channels: the stem's
    kernel is summed or repeated (`adapt.shared_out`). `classes` other than the file's take a new
    head of random weights, none at 0. Raises CheckpointError, which lists what is missing, left
    over or of another shape, in the names of the file.

    Examples:
        >>> torch.save(vitrail.create("levit_128s").state_dict(), "levit.pth")
        >>> model = vitrail.load("levit_128s", "levit.pth", image=(192, 256), channels=1)
        >>> model(torch.zeros(1, 1, 192, 256)).shape
        torch.Size([1, 1000])
    """
    config = resolve(name_or_config)
    # A network of pairs has no classes that a file could tell.
    by_name = isinstance(name_or_config, str) and input_kind(config) != "pairs"
    state = checkpoint.read(path_or_state_dict)
    wanted = None if image is None else (image[0], image[1])
    reading, config = _fitting(state, config, source, by_name, wanted)
    ours: dict[str, Tensor] = dict(reading.state)
    checkpoint.require_values(ours, skeleton(config).state_dict(), reading.origins)
    if wanted is not None and wanted != tuple(config.image):
        moved = resolve(config, image=wanted)
        ours, config = resampled(ours, config, moved, module_of(config)), moved
    if channels is not None and channels != config.channels:
        moved = resolve(config, channels=channels)
        pair = (config.channels, channels)
        ours, config = rechannelled(ours, skeleton(config), skeleton(moved), pair), moved
    if classes is not None and classes != config.classes:
        ours, config = _reheaded(ours, config, classes)
    with bare():
        model = create(config)
    checkpoint.assign(model, ours, dtype=dtype)
    return laid_out(model).eval()


def _reheaded(ours: Mapping[str, Tensor], config: Any, classes: int) -> Moved:
    """Return the state with fresh weights wherever the number of classes decides the shape."""
    moved = resolve(config, classes=classes)
    fresh = create(moved).state_dict()
    kept = {n: v for n, v in ours.items() if n in fresh and v.shape == fresh[n].shape}
    new = {n: v for n, v in fresh.items() if n not in kept and not n.endswith("tracked")}
    return {**kept, **new}, moved


def _fitting(
    state: Mapping[str, Tensor],
    config: Any,
    source: str | None,
    by_name: bool,
    image: tuple[int, int] | None,
) -> tuple[Reading, Any]:
    """Return the reading of a state that fits a config, and the config that its shapes tell."""
    known, best, nearest = light(state), None, Nearest(10**9, None, Mismatch([], [], []))
    ways = list(_ways(list(state), config, source))
    for names, table, rows in ways:
        try:
            reading = read(known, names, table, rows)
        except CheckpointError as e:
            # A table of other names may meet shapes that its functions cannot take.
            nearest = min(nearest, Nearest(10**8, None, Mismatch([str(e)], [], [])), key=_size)
            continue
        near = (headed(config, reading.shapes) if by_name else None) or config
        mismatch = checkpoint.compare(reading.state, skeleton(near))
        nearest = min(nearest, Nearest(mismatch.size, reading, mismatch), key=_size)
        found = None if mismatch else near
        if mismatch and by_name and not _strange(mismatch):
            found = told(config, reading.shapes, image)
        if found is not None and (best is None or aspect(found.image) < aspect(best[0].image)):
            best = found, names, table, rows
        if not mismatch:
            break
    if best is None:
        tried = list(dict.fromkeys(table for _, table, _ in ways))
        raise CheckpointError(_misfit(state, config, tried, nearest))
    found, names, table, rows = best
    return read(state, names, table, rows), found


class Nearest(NamedTuple):
    """The reading that differs least: how many tensors, and which."""

    size: int
    reading: Reading | None
    mismatch: Mismatch


def _size(nearest: Nearest) -> int:
    return nearest.size


def _ways(
    names: list[str], config: Any, source: str | None
) -> Iterator[tuple[dict[str, str], str, Any]]:
    for unprefixed in unwrapped(names):
        for table, rows in tables(config, source).items():
            yield unprefixed, table, rows


def _strange(mismatch: Mismatch) -> bool:
    """Return whether more than heads is missing or left over, which no sizes explain."""
    return any(not name.startswith("head.") for name in (*mismatch.missing, *mismatch.unexpected))


def _misfit(state: Mapping[str, Tensor], config: Any, tried: list[str], nearest: Nearest) -> str:
    mismatch = nearest.mismatch
    if nearest.reading is not None:
        mismatch = in_file_names(mismatch, nearest.reading)
    name = config_name(config)
    likely = identify_state(state)
    if likely is None:
        hint = ""
    elif likely.name == name:
        hint = f"; it is {name} at {_sizes(likely.config, config)}"
    else:
        hint = f"; it is {likely.name} in {likely.source} names"
    return (
        f"the checkpoint does not fit {name} (tried {', '.join(tried)} names): "
        f"{mismatch.describe()}{hint}"
    )


def _sizes(found: Any, wanted: Any) -> str:
    """Say in what two configs of one variant differ."""
    names = [n for n in ("classes", "channels", "image") if getattr(found, n) != getattr(wanted, n)]
    differing = (f"{n}={getattr(found, n)} in place of {getattr(wanted, n)}" for n in names)
    return " and ".join(differing) or "the same sizes, with other tensors"
