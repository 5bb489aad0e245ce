"""The catalog: a file of this package that has `VARIANTS` is a family, and that is all. A network
of no images has a Config, NAMES and MODEL only: `create` and `load` know it by its Config.

catalog()                   every published variant by name
create(name, **changes)     a model with random weights
load(name, file)            a model with the weights of a file, whatever names it uses
identify(file)              which variant a file is, and whose names it uses
"""

from __future__ import annotations

import os
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail import checkpoint
from vitrail.errors import CheckpointError, ConfigError
from vitrail.models.trunk.adapt import laid_out, rechannelled
from vitrail.models.trunk.backbone import Backbone, Variant, changed
from vitrail.models.trunk.fitting import fitted
from vitrail.models.trunk.positions import resampled

__all__ = ["catalog", "create", "identify", "load"]


@lru_cache(maxsize=1)
def networks() -> Mapping[str, ModuleType]:
    """The files with a network by their names: each has Config, NAMES, MODEL."""
    modules = (import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__))
    return MappingProxyType(
        {m.__name__.rpartition(".")[2]: m for m in modules if hasattr(m, "MODEL")}
    )


@lru_cache(maxsize=1)
def families() -> Mapping[str, ModuleType]:
    """Those of image backbones, which have VARIANTS and SPACE too."""
    return MappingProxyType({n: m for n, m in networks().items() if hasattr(m, "VARIANTS")})


@lru_cache(maxsize=1)
def catalog() -> Mapping[str, Variant]:
    """Every published variant by name, with its family filled in."""
    found: dict[str, Variant] = {}
    for family, module in families().items():
        for name, variant in module.VARIANTS.items():
            if name in found:
                raise ConfigError(
                    f"variant {name} is in both {found[name].family} and {family}: rename one"
                )
            found[name] = replace(variant, name=name, family=family)
    return MappingProxyType(found)


def create(name_or_config: Any, **changes: Any) -> Backbone:
    """A model with random weights: `create("swin_tiny", classes=10, image=(256, 192))`.

    `changes` replace fields of the variant's config. Raises ConfigError for an unknown name
    or field and for sizes that do not fit together.
    """
    config = resolve(name_or_config, **changes)
    try:
        model = module_of(config).MODEL(config)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    return laid_out(model)


def resolve(name_or_config: Any, **changes: Any) -> Any:
    """The config that a name, or a config, and some changes mean."""
    config = name_or_config
    if isinstance(name_or_config, str):
        if name_or_config not in catalog():
            raise ConfigError(f"no variant is called {name_or_config!r}{_near(name_or_config)}")
        config = catalog()[name_or_config].config
    try:
        return changed(config, changes)
    except (ValueError, TypeError) as e:
        raise ConfigError(str(e)) from e


def load(
    name_or_config: Any,
    path_or_state_dict: str | os.PathLike | Mapping[str, Tensor],
    *,
    source: str | None = None,
    image: tuple[int, int] | None = None,
    channels: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """A model with given weights, in eval mode, built and computed in `dtype`.

    `source` picks a name table ("timm", "transformers", "microsoft/CvT" ...); without it
    all tables of the family are tried. `image` moves the model to another image size:
    positions are resampled as its paper does. `channels` moves it to images of so many
    channels: the stem's kernel is summed or repeated (`moving.shared_out`). Raises
    CheckpointError, which lists what is missing, left over or of another shape.
    """
    config = resolve(name_or_config)
    state = checkpoint.read(path_or_state_dict)
    ours, table, mismatch = min(_readings(config, state, source), key=lambda r: r[2].size)
    if mismatch:
        what = name_or_config if isinstance(name_or_config, str) else config_name(config)
        likely = identify_state(state)
        hint = f"it is {likely.name} in {likely.source} names" if likely else "is it that model?"
        raise CheckpointError(
            f"the checkpoint does not fit {what} (tried {table} names): "
            f"{mismatch.describe()}; {hint}"
        )
    if image is not None and tuple(image) != tuple(config.image):
        moved = resolve(config, image=tuple(image))
        ours = resampled(ours, config, moved, module_of(config))
        config = moved
    if channels is not None and channels != config.channels:
        moved = resolve(config, channels=channels)
        pair = (config.channels, channels)
        ours = rechannelled(ours, _meta(config), _meta(moved), pair)
        config = moved
    with torch.device("meta"):
        model = create(config)
    checkpoint.assign(model, ours, dtype=dtype)
    return laid_out(model).eval()


class Identity(NamedTuple):
    """What a file of weights is: a variant (with changes) under somebody's names.

    `same` names variants of other families that have the same tensors, as DeiT and ViT do.
    """

    name: str
    source: str
    config: Any
    same: tuple[str, ...] = ()


def identify(path_or_state_dict: str | os.PathLike | Mapping[str, Tensor]) -> Identity:
    """Which variant a checkpoint is, told by its names and shapes.

    The number of classes may differ from the published one. Weights that vitrail wrote say
    it themselves, searched models included. Raises CheckpointError when no variant fits.
    """
    state = checkpoint.read(path_or_state_dict)
    if written := checkpoint.metadata(path_or_state_dict).get("config"):
        config = config_from_json(written)
        return Identity(config_name(config), "vitrail", config)
    words = () if isinstance(path_or_state_dict, Mapping) else _words(path_or_state_dict)
    found = identify_state(state, words)
    if found is None:
        some = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"no model of the catalog has these {len(state)} tensors ({some}, ...): "
            "`vitrail list` shows what is known"
        )
    return found


def identify_state(state: Mapping[str, Tensor], words: Sequence[str] = ()) -> Identity | None:
    """As `identify`, on a state dict; None when no variant fits.

    Of families with the same tensors that one is taken which is among `words`, those of the
    file's name, else the first.
    """
    size = sum(v.numel() for v in state.values())
    found: dict[str, Identity] = {}
    # Published sizes spare the building of the whole catalog; heads differ, so the second look
    # is at a wide range.
    for reach in (1.03, 2.0):
        for name, variant in catalog().items():
            expected = 1e6 * (variant.params_m or 0)
            if not expected and reach > 1.5:
                expected = _size(variant.config)
            if variant.family in found or not expected / reach < size < expected * reach:
                continue
            for ours, table, mismatch in _readings(variant.config, state, None):
                if mismatch.missing or mismatch.unexpected:
                    continue
                config = fitted(variant.config, ours, module_of(variant.config))
                if config is not None and not checkpoint.compare(ours, _meta(config)):
                    found[variant.family] = Identity(name, table, config)
                    break
        if found:
            break
    if not found:
        return None
    chosen = next((family for family in found if family in words), next(iter(found)))
    others = tuple(other.name for family, other in found.items() if family != chosen)
    return found[chosen]._replace(same=others)


def _words(path: str | os.PathLike) -> list[str]:
    return re.split(r"[^a-z0-9]+", os.fspath(path).rpartition("/")[2].lower())


def _readings(
    config: Any, state: Mapping[str, Tensor], source: str | None
) -> Iterator[tuple[dict[str, Tensor], str, checkpoint.Mismatch]]:
    """The state under each table's renaming, with how it differs from the model."""
    tables = {"vitrail": [], **module_of(config).NAMES}
    if source is not None:
        chosen = [k for k in tables if source == k or source.startswith(k)]
        if not chosen:
            raise CheckpointError(f"no name table {source!r}: known are {', '.join(tables)}")
        tables = {chosen[0]: tables[chosen[0]]}
    expected = _meta(config)
    for key, rows in tables.items():
        try:
            ours = checkpoint.rename(state, rows(config) if callable(rows) else rows)  # pyright: ignore[reportArgumentType]
        except (CheckpointError, RuntimeError, ValueError, IndexError, TypeError) as e:
            # A table of other names may meet shapes that its functions cannot take.
            yield {}, key, checkpoint.Mismatch([str(e).splitlines()[0]] * len(state), [], [])
            continue
        yield ours, key, checkpoint.compare(ours, expected)


@lru_cache
def _size(config: Any) -> int:
    return sum(v.numel() for v in _meta(config).state_dict().values())


@lru_cache(maxsize=512)
def _meta(config: Any) -> Backbone:
    with torch.device("meta"):
        return create(config)


# ---- configs as names and JSON ---------------------------------------------------------


def module_of(config: Any) -> ModuleType:
    """The model file whose Config this is."""
    for module in networks().values():
        if type(config) is module.Config:
            return module
    raise ConfigError(f"{type(config).__name__} is no config of a model of the catalog")


def family_of(config: Any) -> str:
    """The family's name: that of its file."""
    return module_of(config).__name__.rpartition(".")[2]


def config_json(config: Any) -> dict[str, Any]:
    """`{"family": "cct", ...fields}`, which `config_from_json` reads back."""
    return {"family": family_of(config), **asdict(config)}


def config_from_json(data: Mapping[str, Any]) -> Any:
    """The config that `config_json` wrote. Raises ConfigError."""
    values = dict(data)
    family = values.pop("family", None)
    if family not in networks():
        raise ConfigError(f"family {family!r} is unknown: known are {', '.join(networks())}")
    return resolve(networks()[family].Config(), **values)


def config_name(config: Any) -> str:
    """A variant's name where the config is a published one, else what it differs in."""
    if family_of(config) not in families():
        return family_of(config)
    plain = replace(config, image=(0, 0), channels=0, classes=0)
    for variant in catalog().values():
        if type(variant.config) is type(config) and plain == replace(
            variant.config, image=(0, 0), channels=0, classes=0
        ):
            return variant.name
    parts = []
    for key in module_of(config).SPACE.choices:
        fields = (key,) if isinstance(key, str) else key
        parts.append("x".join(_short(getattr(config, field)) for field in fields))
    return "-".join([family_of(config), *parts])


def _short(value: Any) -> str:
    """One word: the sizes of stages joined by dots."""
    return ".".join(map(str, value)) if isinstance(value, tuple) else str(value)


def small_configs(family: str, *, image: tuple[int, int], channels: int, classes: int) -> list[Any]:
    """The configs of a family's search space that can be built for such images."""
    module, fitting = families()[family], []
    for config in module.SPACE.configs(image=image, channels=channels, classes=classes):
        try:
            _meta(config)
        except ConfigError:
            continue
        fitting.append(config)
    return fitting


def _near(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, catalog(), n=3)
    return f": did you mean {' or '.join(close)}?" if close else "; see `vitrail list`"
