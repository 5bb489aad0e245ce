"""Which variant a state dict is, told by names and shapes; twins are told by words."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from torch import Tensor

from vitrail import checkpoint
from vitrail.errors import CheckpointError, ConfigError
from vitrail.models.trunk.backbone import Variant
from vitrail.models.trunk.catalog import (
    catalog,
    config_from_json,
    config_name,
    dense,
    module_of,
    queried,
    shapes,
    skeleton,
)
from vitrail.models.trunk.checked import blocks
from vitrail.models.trunk.figures import fingerprint
from vitrail.models.trunk.nearest import body, likely, nearest
from vitrail.models.trunk.readings import Reading, light, read, tables, unwrapped
from vitrail.models.trunk.told import aspect, told

MAPS = 1.5  # by how much heads of other classes and encoders' own heads change a network of maps
CLOSE = 0.08  # by how much tables of positions and kernels of channels change a model's size
TRIES = 24  # models that are compared
# Fields that change nothing of what a model with given weights computes for an image; a family may
# name others in a SILENT of its own.
SILENT = {"image", "drop_path", "dropout", "attention_dropout"}


class Identity(NamedTuple):
    """What a file of weights is: a variant (with changes) under somebody's names.

    `same` names other variants that have the same tensors, as DeiT and ViT do; `rivals` those of
    them that compute something else, where neither the file's name nor what is written in it
    tells which of them it is.
    """

    name: str
    source: str
    config: Any
    same: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


class Fit(NamedTuple):
    """A variant that a state fits, at the config that its shapes tell."""

    variant: Variant
    config: Any
    reading: Reading


def identify(
    source: str | os.PathLike | Mapping[str, Tensor], model: str | None = None
) -> Identity:
    """Return which variant a checkpoint is, told by its names and shapes.

    Classes, channels and the size of the image may differ from the published ones, and wrappers'
    prefixes may lie before the names. Weights that vitrail wrote say it themselves, searched
    models included. Between variants that have the same tensors the file's name and what is
    written beside the weights decide, or the name of one of them as `model`. Raises
    CheckpointError when no variant fits, with the nearest one, or when values are not finite.

    Examples:
        >>> torch.save(vitrail.create("resnet_18", classes=7).state_dict(), "unknown.pth")
        >>> found = vitrail.identify("unknown.pth")
        >>> found.name, found.source, found.config.classes
        ('resnet_18', 'vitrail', 7)
    """
    held = checkpoint.contents(source)
    if "base" in held.written:
        raise CheckpointError(
            f"{_said(source)} has only what a run adds to its base: give the run folder where one "
            "is asked for, or the base"
        )
    if "config" in held.written:
        return _own(held, source)
    words = [] if isinstance(source, Mapping) else [file_words(source)]
    words += [split(word) for word in held.about.get("words", ())]
    fits = _fits(held.state)
    if not fits:
        raise CheckpointError(_unknown(held.state))
    found, reading = _chosen(fits, words, model)
    rows = tables(found.config, found.source)[found.source]
    whole = read(held.state, reading.names, found.source, rows)
    checkpoint.require_values(whole.state, skeleton(found.config).state_dict(), whole.origins)
    return found


def identify_state(state: Mapping[str, Tensor], words: Sequence[str] = ()) -> Identity | None:
    """Identify a state dict, with the words of its file's name, as `identify` does a file; None
    when nothing fits.
    """
    fits = _fits(state)
    return _chosen(fits, [list(words)], None)[0] if fits else None


def _own(held: checkpoint.Contents, source: Any) -> Identity:
    """Return the config that vitrail wrote, if the tensors are its."""
    try:
        config = config_from_json(held.written["config"])
        if blocks(config) > len(held.state):
            raise ConfigError(f"it has {blocks(config)} blocks for {len(held.state)} tensors")
        mismatch = checkpoint.compare(held.state, skeleton(config))
    except (ConfigError, RecursionError) as e:
        reason = str(e) if len(str(e)) <= 300 else f"{str(e)[:297]}..."
        raise CheckpointError(
            f"the config in {_said(source)} is not of its weights: {reason}"
        ) from e
    if mismatch:
        raise CheckpointError(
            f"the config in {_said(source)} is not of its weights: {mismatch.describe()}"
        )
    checkpoint.require_values(held.state, skeleton(config).state_dict())
    return Identity(config_name(config), "vitrail", config)


def _said(source: Any) -> str:
    return "the given mapping" if isinstance(source, Mapping) else os.fspath(source)


def _unknown(state: Mapping[str, Tensor]) -> str:
    some = ", ".join(name[:60] for name in list(state)[:3])
    close = nearest(state)
    more = f"; nearest is {close}" if close else ": `vitrail list` shows what is known"
    return f"no model of the catalog has these {len(state)} tensors ({some}, ...){more}"


# ---- what fits ---------------------------------------------------------------------------


def _fits(state: Mapping[str, Tensor]) -> list[Fit]:
    """Return all variants that a state fits, each under the first table that fits."""
    known = light(state)
    for names in unwrapped(list(state)):
        found: dict[str, Fit] = {}
        ranked = sorted(_candidates(known, names), key=lambda c: c[0])
        for tries, (gap, variant, reading) in enumerate(ranked):
            if (found and gap > CLOSE) or tries >= TRIES:
                break
            config = told(variant.config, reading.shapes)
            if config is None:
                continue
            before = found.get(variant.name)
            # A table of other names may take a class token for a position of an odd image.
            if before is None or aspect(config.image) < aspect(before.config.image):
                found[variant.name] = Fit(variant, config, reading)
        if found:
            return _distinct(_squarest(list(found.values())))
    return _maps(known) or _queried(known)


def _maps(state: Mapping[str, Tensor]) -> list[Fit]:
    """Return the networks of maps that a state fits, which no backbone does."""
    total = sum(v.numel() for v in state.values())
    for names in unwrapped(list(state)):
        found: dict[Any, Fit] = {}
        for variant in dense().values():
            values = sum(map(math.prod, shapes(variant.config).values()))
            if not values / MAPS < total < values * MAPS:
                continue
            for table, rows in tables(variant.config).items():
                try:
                    reading = read(state, names, table, rows)
                except CheckpointError:
                    continue  # a table of other names meets shapes that it cannot take
                config = told(variant.config, reading.shapes)
                if config is not None:
                    found.setdefault(config, Fit(variant, config, reading))
        if found:
            return _squarest(list(found.values()))
    return []


def _queried(state: Mapping[str, Tensor]) -> list[Fit]:
    """Return the published networks of queries whose tensors a state has,
    under the first such table.
    """
    for names in unwrapped(list(state)):
        for variant in queried().values():
            expected = shapes(variant.config)
            for table, rows in tables(variant.config).items():
                try:
                    reading = read(state, names, table, rows)
                except CheckpointError:
                    continue  # a table of other names meets shapes that it cannot take
                if reading.shapes == expected:
                    return [Fit(variant, variant.config, reading)]
    return []


def _squarest(fits: Sequence[Fit]) -> list[Fit]:
    least = min(aspect(fit.config.image) for fit in fits)
    return [fit for fit in fits if aspect(fit.config.image) == least]


def _candidates(
    state: Mapping[str, Tensor], names: Mapping[str, str]
) -> Iterator[tuple[float, Variant, Reading]]:
    """Yield variants whose names the state has under a table, with how
    far their sizes are apart.
    """
    total = sum(v.numel() for v in state.values())
    for family, table in likely(names):
        readings: list[tuple[Any, Reading]] = []  # a family's variants share most tables
        for variant in (v for v in catalog().values() if v.family == family):
            values, print_of_names = body(variant)
            if not values / 4 < total < values * 16:
                continue
            try:
                rows = tables(variant.config, table)[table]
                same = (known for given, known in readings if given == rows)
                reading = next(same, None) or read(state, names, table, rows)
            except CheckpointError:
                continue  # a table of other names meets shapes that its functions cannot take
            readings.append((rows, reading))
            own = {n: s for n, s in reading.shapes.items() if not n.startswith("head.")}
            if fingerprint(own) == print_of_names:
                yield abs(sum(map(math.prod, own.values())) / values - 1), variant, reading


def _distinct(fits: Sequence[Fit]) -> list[Fit]:
    """Return one fit for each config; of equal ones that whose variant has it published."""
    order = list(catalog())
    ranked = sorted(
        fits,
        key=lambda fit: (
            fit.variant.config.image != fit.config.image,
            order.index(fit.variant.name),
        ),
    )
    found: dict[Any, Fit] = {}
    for fit in ranked:
        found.setdefault(fit.config, fit)
    return [fit for fit in fits if found[fit.config] is fit]


# ---- which of them it is -----------------------------------------------------------------


def _chosen(
    fits: Sequence[Fit], words: Sequence[Sequence[str]], model: str | None
) -> tuple[Identity, Reading]:
    names = [fit.variant.name for fit in fits]
    if model is not None and model not in names:
        raise CheckpointError(
            f"the weights are not of {model}: they fit {' or '.join(names)}, choose one of these"
        )
    scores = [max((_score(fit.variant, said) for said in words), default=0) for fit in fits]
    best = names.index(model) if model else max(range(len(fits)), key=lambda i: (scores[i], -i))
    chosen = fits[best]
    decided = model is not None or scores[best] > 0
    rivals = tuple(
        fit.variant.name
        for fit, score in zip(fits, scores, strict=True)
        if not _alike(fit, chosen) and (not decided or (score == scores[best] and not model))
    )
    same = tuple(name for name in names if name != chosen.variant.name)
    found = Identity(chosen.variant.name, chosen.reading.table, chosen.config, same, rivals)
    return found, chosen.reading


def _alike(one: Fit, other: Fit) -> bool:
    """Return whether both compute the same of the same weights."""
    if type(one.config) is not type(other.config):
        return False
    silent = SILENT | getattr(module_of(one.config), "SILENT", set())
    names = {f.name for f in fields(one.config)} - silent
    return all(getattr(one.config, n) == getattr(other.config, n) for n in names)


def file_words(path: str | os.PathLike) -> list[str]:
    """Return the words of a file's name, in small letters."""
    return split(os.fspath(path).rstrip("/").rpartition("/")[2])


def split(text: str) -> list[str]:
    """Return the words of a text, in small letters."""
    return [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]


def _score(variant: Variant, words: Sequence[str]) -> int:
    """Return how much more of a name of the variant is among the words than is not."""
    published = [reference.rpartition("/")[2] for reference in variant.hub.values()]
    without_tags = [name.partition(".")[0] for name in published]
    names = [variant.name, variant.family, *published, *without_tags]
    return max(_common(split(name), words) for name in names)


def _common(name: Sequence[str], words: Sequence[str]) -> int:
    return sum(1 if word in words else -1 for word in name)
