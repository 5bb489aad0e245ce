"""Widths that tensors share, and models with channels of them taken out.

A family says in `WIDTHS`, a table beside its `NAMES`, which axis of which tensor belongs to which
width. Rows are `(pattern, axes)`: `{i}` in a pattern stands for one part of a name and may be used
in the axes, which are separated by commas; those at the end that no width cuts are left out.

    ("blocks.{i}.mixer.qkv.weight", "q:inner.{i} + inner.{i} + inner.{i}, dim")

An axis is a width, `*` (never cut), or parts of widths joined by `+`; `q:` marks the queries, which
are rescaled where heads become wider or narrower, so that their products stay. A width is called as
the field of the Config that holds it, with the number of its block behind it. Beside each "inner"
stands a "heads" of the same block. A family in which something computed depends on a width offers
`cuttable(model)`, a model of the same function in which it does not.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail.checkpoint import assign
from vitrail.errors import ConfigError
from vitrail.models.trunk.adapt import laid_out
from vitrail.models.trunk.backbone import Backbone
from vitrail.models.trunk.catalog import bare, create, family_of, module_of, networks

INNER, HEADS, HIDDEN = "inner", "heads", "hidden"
# Numbers that a Config holds one a block, and one number for all where they are equal.
PER_BLOCK = (INNER, HEADS, HIDDEN)


class Place(NamedTuple):
    """Where a width is: `size` entries of a tensor's axis from `start` on."""

    tensor: str
    axis: int
    start: int
    size: int
    width: str
    query: bool


@dataclass(frozen=True)
class Cut:
    """What stays of a model.

    `kept` has, for each width that is cut, the channels that stay, in their new order; `heads` for
    an inner width how many heads these make, one behind the other; `without` the blocks that go.
    """

    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)
    without: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for width, channels in self.kept.items():
            if not channels or len(set(channels)) != len(channels):
                raise ConfigError(f"{width} keeps {channels}: give channels, each once")
        for width, count in self.heads.items():
            if count < 1 or len(self.kept.get(width, ())) % count:
                raise ConfigError(
                    f"{width} keeps {len(self.kept.get(width, ()))} channels, which do not make "
                    f"{count} heads"
                )


def with_widths() -> list[str]:
    """Return the families that say which of their tensors share a width."""
    return [name for name, module in networks().items() if hasattr(module, "WIDTHS")]


def places(model: Backbone) -> list[Place]:
    """Return where a model's widths are, for every tensor of its state.

    Raises ConfigError for a family without a table, and for a tensor that its table leaves out.
    """
    module = module_of(model.config)
    if not hasattr(module, "WIDTHS"):
        raise ConfigError(
            f"{family_of(model.config)} does not say which of its tensors share a width, so it "
            f"cannot be cut: {', '.join(with_widths())} do"
        )
    rows, found = module.WIDTHS(model.config), []
    for name, value in model.state_dict().items():
        axes = _axes(name, rows)
        if axes is None:
            raise ConfigError(f"{name} of {family_of(model.config)} has no row in its WIDTHS")
        # A bias has the first of its weight's axes.
        for axis, (spec, length) in enumerate(zip(axes, value.shape, strict=False)):
            found += _parts(name, axis, spec, length)
    return found


def sizes(model: Backbone) -> dict[str, int]:
    """Return how many channels each width has, in the order of the model."""
    return {place.width: place.size for place in places(model)}


def heads_of(config: Any, width: str) -> int:
    """Return how many heads the inner `width` of a block has."""
    value: Any = getattr(config, HEADS)
    for index in width.split(".")[1:]:
        value = value[int(index)] if isinstance(value, tuple) else value
    return value


def prepared(model: Backbone) -> Backbone:
    """Return a model of the same function of whose every width channels may be taken."""
    prepare = getattr(module_of(model.config), "cuttable", None)
    return model if prepare is None else prepare(model)


def sliced(model: Backbone, cut: Cut) -> Backbone:
    """Return a model of its own Config that has the channels, heads and blocks that stay.

    Nothing is rescaled but queries of heads whose width changes. Raises ConfigError.

    Examples:
        >>> model = vitrail.create("deit_tiny")
        >>> smaller = sliced(model, Cut({"hidden.0": tuple(range(100))}, without=(11,)))
        >>> smaller.config.depth, smaller.config.hidden[:2]
        (11, (100, 768))
    """
    model = prepared(model) if "dim" in cut.kept else model
    known, numbers = sizes(model), _numbers(model.config, cut)
    for width, channels in cut.kept.items():
        if width not in known or max(channels) >= known[width] or min(channels) < 0:
            raise ConfigError(
                f"{width} keeps channels up to {max(channels)}: {family_of(model.config)} has "
                f"{known.get(width, 'no such width')}"
            )
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    by_axis: dict[tuple[str, int], list[Place]] = {}
    for place in places(model):
        by_axis.setdefault((place.tensor, place.axis), []).append(place)
    for (name, axis), parts in by_axis.items():
        taken = [_taken(state[name], place, cut, model.config, known) for place in parts]
        state[name] = torch.cat(taken, axis)
    rest = {new: value for name, value in state.items() if (new := _moved(name, numbers))}
    like = next(model.parameters())
    with bare():
        channels = {w: len(cut.kept.get(w, range(n))) for w, n in known.items()}
        smaller = create(resized(model.config, channels, cut.heads, cut.without))
    assign(smaller, rest, dtype=like.dtype)
    return laid_out(smaller.to(like.device)).train(model.training)


def _taken(value: Tensor, place: Place, cut: Cut, config: Any, known: Mapping[str, int]) -> Tensor:
    """Return the channels of one place that stay."""
    value = value.narrow(place.axis, place.start, place.size)
    inner = place.width.replace(HEADS, INNER, 1)
    channels = cut.kept.get(inner)
    if channels is None:
        return value
    old = heads_of(config, inner) if inner.startswith(INNER) else 1
    if inner != place.width:
        channels = _heads_kept(channels, cut.heads.get(inner, old), known[inner] // old)
    value = value.index_select(place.axis, torch.tensor(channels, device=value.device))
    if not place.query:
        return value
    new = cut.heads.get(inner, old)
    return value * math.sqrt(len(channels) / new / (place.size / old))


def _heads_kept(channels: Sequence[int], heads: int, width: int) -> list[int]:
    """Return from which old head, of `width` channels, each new one has most of its channels."""
    size = len(channels) // heads
    groups = [channels[n * size : (n + 1) * size] for n in range(heads)]
    return [Counter(c // width for c in group).most_common(1)[0][0] for group in groups]


def _numbers(config: Any, cut: Cut) -> dict[int, int | None]:
    """Return the new number of each block, None for one that goes."""
    depth = config.depth if cut.without else 0
    if cut.without and not set(cut.without) < set(range(depth)):
        raise ConfigError(f"blocks {cut.without} cannot all go: the model has {depth} of them")
    stay = [n for n in range(depth) if n not in cut.without]
    return {n: stay.index(n) if n in stay else None for n in range(depth)}


def _moved(name: str, numbers: Mapping[int, int | None]) -> str | None:
    """Return the name of a tensor among the blocks that stay, None where its block goes."""
    match = re.match(r"blocks\.(\d+)\.", name)
    if match is None or not numbers:
        return name
    new = numbers[int(match[1])]
    return None if new is None else f"blocks.{new}.{name[match.end() :]}"


def resized(
    config: Any,
    channels: Mapping[str, int],
    heads: Mapping[str, int],
    without: Sequence[int] = (),
) -> Any:
    """Return the Config of a model with so many channels in every width, and without some blocks.

    `heads` is for inner widths whose heads become another number. Where all blocks have the same
    number it is one.
    """
    found: dict[str, dict[tuple[int, ...], int]] = {}
    for width, size in channels.items():
        name, *index = width.split(".")
        if name == HEADS:
            continue
        at = tuple(map(int, index))
        found.setdefault(name, {})[at] = size
        if name == INNER:
            count = heads.get(width, heads_of(config, width))
            found.setdefault(HEADS, {})[at] = count
    depth = {}
    if without:
        depth = {"depth": config.depth - len(without)}
        found = {name: _without(values, without) for name, values in found.items()}
    values = {name: _nested(of, name in PER_BLOCK) for name, of in found.items()}
    default = {f.name: f.default for f in fields(config)}.get(INNER)
    if default == 0 and values.get(INNER) == values.get("dim", config.dim):
        values[INNER] = 0
    return replace(config, **values, **depth)


def _without(values: Mapping[tuple[int, ...], int], gone: Sequence[int]) -> dict:
    """Close the gaps that blocks leave in numbers of which each block has one."""
    if () in values:
        return dict(values)
    stay = [at for at in sorted(values) if at[0] not in gone]
    return {(new, *at[1:]): values[at] for new, at in enumerate(stay)}


def _nested(values: Mapping[tuple[int, ...], int], per_block: bool) -> Any:
    """Return a number, or tuples of tuples by the indices."""
    if () in values:
        return values[()]
    firsts = sorted({at[0] for at in values})
    inner = [
        _nested({at[1:]: n for at, n in values.items() if at[0] == first}, per_block)
        for first in firsts
    ]
    flat = per_block and all(len(at) == 1 for at in values)
    return inner[0] if flat and len(set(inner)) == 1 else tuple(inner)


def _axes(name: str, rows: Sequence[tuple[str, str]]) -> list[str] | None:
    """Return what the axes of a tensor are, None where no row knows it."""
    for pattern, axes in rows:
        if match := _pattern(pattern).fullmatch(name):
            return [axis.strip() for axis in axes.format(**match.groupdict()).split(",")]
    return None


def _parts(name: str, axis: int, spec: str, length: int) -> list[Place]:
    """Return the places of one axis."""
    if spec in ("*", ""):
        return []
    parts = [part.strip() for part in spec.split("+")]
    size, rest = divmod(length, len(parts))
    if rest:
        raise ConfigError(f"axis {axis} of {name} has {length} entries: not {len(parts)} parts")
    return [
        Place(name, axis, n * size, size, part.removeprefix("q:"), part.startswith("q:"))
        for n, part in enumerate(parts)
    ]


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\w+)", re.escape(text)))
