"""The catalog of variants, models by name or Config, and Configs as JSON."""

from __future__ import annotations

import pkgutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitrail.config import kind_of, nearest, read_json
from vitrail.errors import ConfigError, VitrailError
from vitrail.models.trunk.adapt import laid_out
from vitrail.models.trunk.backbone import IMAGENET, Backbone, Variant, input_kind, sized
from vitrail.models.trunk.checked import checked
from vitrail.models.trunk.figures import inputs
from vitrail.models.trunk.hosts import SHARED, differing, nested, unflattened

_PACKAGE = "vitrail.models"
# What the files of networks call their published ones.
_TABLES = ("VARIANTS", "DENSE", "BOXES", "SERIES", "CLIPS", "SCANS", "TRIPLES", "SPACE")


@lru_cache(maxsize=1)
def networks() -> Mapping[str, ModuleType]:
    """Return the files with a network by their names: each has Config, NAMES, MODEL."""
    folder = import_module(_PACKAGE).__path__
    modules = (import_module(f"{_PACKAGE}.{m.name}") for m in pkgutil.iter_modules(folder))
    return MappingProxyType(
        {m.__name__.rpartition(".")[2]: m for m in modules if hasattr(m, "MODEL")}
    )


@lru_cache(maxsize=1)
def families() -> Mapping[str, ModuleType]:
    """Return the files of image backbones, which have VARIANTS and SPACE too."""
    return MappingProxyType({n: m for n, m in networks().items() if hasattr(m, "VARIANTS")})


def purpose(config: Any) -> str:
    """Return what a network is of: "images" where it tells their classes, else "masks", "boxes", or
    what it takes, such as "clips"."""
    if (kind := input_kind(config)) != "images":
        return kind
    module = networks().get(kind_of(type(config)))
    return "masks" if hasattr(module, "DENSE") else "boxes" if hasattr(module, "BOXES") else kind


@lru_cache(maxsize=1)
def catalog() -> Mapping[str, Variant]:
    """Return every published variant by name, with its family and what its weights take filled in.

    Examples:
        >>> variant = vitrail.catalog()["swin_tiny"]
        >>> variant.family, variant.params_m, variant.flops_g
        ('swin', 28.29, 4.5)
        >>> small = [name for name, v in vitrail.catalog().items() if (v.params_m or 99) < 3]
    """
    found: dict[str, Variant] = {}
    for family, module in families().items():
        for name, variant in module.VARIANTS.items():
            if name in found:
                raise ConfigError(
                    f"variant {name} is in both {found[name].family} and {family}: rename one"
                )
            known = inputs().get(variant.hub.get("timm", "").rpartition("/")[2])
            takes = variant.takes or known or getattr(module, "TAKES", IMAGENET)
            found[name] = replace(variant, name=name, family=family, takes=takes)
    return MappingProxyType(found)


@lru_cache(maxsize=1)
def dense() -> Mapping[str, Variant]:
    """Return every published network that answers for each pixel, by name, with its file's name as
    the family: those of `DENSE` in the files of networks."""
    return _listed("DENSE")


@lru_cache(maxsize=1)
def queried() -> Mapping[str, Variant]:
    """Return every published network that finds what it is asked for, by name: those of `QUERIED`
    in the files of networks."""
    return _listed("QUERIED")


def _listed(table: str) -> Mapping[str, Variant]:
    return MappingProxyType(
        {
            name: replace(variant, name=name, family=family)
            for family, module in networks().items()
            for name, variant in getattr(module, table, {}).items()
        }
    )


@lru_cache(maxsize=1)
def scans() -> Mapping[str, Variant]:
    """Return every published network of lidar scans, by name, with its file's name as the family:
    those of `SCANS` in the files of networks."""
    return _listed("SCANS")


@lru_cache(maxsize=1)
def triples() -> Mapping[str, Variant]:
    """Return every published network of clips, sounds and sentences, by name: those of `TRIPLES` in
    the files of networks."""
    return _listed("TRIPLES")


@lru_cache(maxsize=1)
def series() -> Mapping[str, Variant]:
    """Return every published network of time series, by name, with its file's name as the family:
    those of `SERIES` in the files of networks."""
    return _listed("SERIES")


def named() -> Mapping[str, Variant]:
    """Return all that has a name: variants of the catalog, networks of maps, of series, of scans,
    and of clips with sounds and sentences."""
    return {**catalog(), **dense(), **series(), **scans(), **triples()}


def create(name_or_config: Any, **changes: Any) -> Backbone:
    """Return a model with random weights.

    A name is a variant's, or the path of a JSON file with a model, such as a search's found.json.
    `changes` replace fields of the variant's config; with `classes=0` there is no head, and the
    logits are the embedding. Raises ConfigError for an unknown name or field, a value of a wrong
    type, and sizes that do not fit together.

    Examples:
        >>> model = vitrail.create("resnet_18", classes=10, image=(128, 160))
        >>> images = torch.zeros(2, 3, 128, 160)
        >>> model(images).shape
        torch.Size([2, 10])
        >>> [tuple(level.shape) for level in model.features(images)]
        [(2, 32, 40, 64), (2, 16, 20, 128), (2, 8, 10, 256), (2, 4, 5, 512)]
    """
    return laid_out(built(resolve(name_or_config, **changes), changes))


def built(config: Any, changes: Mapping[str, Any]) -> Backbone:
    """Return the model of a config that is checked; `changes` are named where it cannot be."""
    module = module_of(config)
    try:
        return module.MODEL(config)
    except VitrailError:
        raise
    except Exception as e:
        if isinstance(e, ValueError) and _in_words(e):
            raise ConfigError(str(e)) from e
        raise ConfigError(_unbuilt(config, changes, e)) from e


def _in_words(error: ValueError) -> bool:
    """Return whether a line of ours raised it, with a sentence: Python's own errors are none."""
    frames = traceback.extract_tb(error.__traceback__)
    return not frames[-1].line or frames[-1].line.startswith("raise ")


def _unbuilt(config: Any, changes: Mapping[str, Any], error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        first = "there is not enough memory"
    said = ", ".join(f"{k}={v}" for k, v in (changes or asdict(config)).items())
    default = module_of(config).Config()
    such = ", ".join(f"{k}={getattr(default, k)}" for k in changes)
    remedy = f"its default is {such}" if such else "begin with a published variant"
    return f"{family_of(config)} cannot be built with {said} ({first}): {remedy}"


def resolve(name_or_config: Any, **changes: Any) -> Any:
    """Return the config that a name, or a config, and some changes mean. Raises ConfigError."""
    config = name_or_config
    if isinstance(config, str | Path) and str(config).endswith(".json"):
        config = config_in(Path(config))
        return checked(config, changes, module_of(config))
    if isinstance(name_or_config, str):
        known = {**named(), **queried()}
        if name_or_config not in known:
            raise ConfigError(f"no variant is called {name_or_config!r}{_near(name_or_config)}")
        config = known[name_or_config].config
    return checked(config, changes, module_of(config))


def skeleton(config: Any) -> Backbone:
    """Return the model of a config on the meta device, one and the same for equal configs."""
    return _skeleton(resolve(config))


@lru_cache(maxsize=512)
def _skeleton(config: Any) -> Backbone:
    with bare():
        return built(config, {})


@contextmanager
def bare() -> Iterator[None]:
    """Give models that are made inside shapes and no values."""
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leave out random values and their scales: on the meta device they are nothing, but PyTorch
    imports its compiler for them, which takes seconds."""

    FILLS = (
        Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_,
        nn.init.kaiming_uniform_,
    )  # fmt: skip
    MAKES = (torch.randn, torch.rand)
    SCALES = (Tensor.mul, Tensor.__mul__, Tensor.__rmul__)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in self.FILLS:
            return args[0] if args else given["tensor"]
        if func in self.SCALES and isinstance(args[1], float | int) and args[0].is_floating_point():
            return args[0]
        return (torch.empty if func in self.MAKES else func)(*args, **given)


def shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's state, without the counters of BatchNorms."""
    return _shapes(skeleton(config))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    state = model.state_dict()
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


# ---- configs as names and JSON ---------------------------------------------------------


def module_of(config: Any) -> ModuleType:
    """Return the model file whose Config this is."""
    for module in networks().values():
        if type(config) is module.Config:
            return module
    raise ConfigError(
        f"{type(config).__name__} is not the Config of a model of the catalog: give a variant's "
        "name or a Config"
    )


def family_of(config: Any) -> str:
    """Return the family's name: that of its file."""
    return module_of(config).__name__.rpartition(".")[2]


def config_json(config: Any) -> dict[str, Any]:
    """Return `{"family": "cct", ...fields}`, which `config_from_json` reads back."""
    return {"family": family_of(config), **asdict(config), **nested(config)}


def config_from_json(data: Any) -> Any:
    """Return the config that `config_json` wrote. Raises ConfigError."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"a config is {type(data).__name__}: expected a mapping of fields")
    values = {str(name): value for name, value in data.items()}
    family = values.pop("family", None)
    if not isinstance(family, str) or family not in networks():
        said = family[:80] if isinstance(family, str) else type(family).__name__
        raise ConfigError(f"family {said!r} is unknown: {nearest(said, [*networks()])}")
    module = networks()[family]
    values = unflattened(module.Config, values, getattr(module, "FLAT", {}))
    return resolve(module.Config(), **values)


def config_in(path: Path) -> Any:
    """Return the config in a JSON file that has one as its "model": found.json of a search, or
    recipe.json of any run. Raises ConfigError."""
    remedy = "give a found.json that `vitrail search` wrote, or the recipe.json of a run"
    value = read_json(path, dict, remedy=remedy, error=ConfigError)
    if "model" not in value:
        raise ConfigError(f"{path} has no model: {remedy}")
    try:
        return config_from_json(value["model"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_name(config: Any) -> str:
    """Return a variant's name where the config is a published one, else what it differs in."""
    module = module_of(config)
    if hasattr(module, "QUERIED"):
        plain = replace(config, image=(0, 0), channels=0)
        for name, variant in module.QUERIED.items():
            if plain == replace(variant.config, image=(0, 0), channels=0):
                return name
    if not any(hasattr(module, table) for table in _TABLES):
        return family_of(config)
    nothing: dict[str, Any] = {"image": (0, 0), "channels": 0, "classes": 0}
    plain = sized(config, **nothing)
    for variant in named().values():
        if type(variant.config) is type(config) and plain == sized(variant.config, **nothing):
            return variant.name
    if any(hasattr(module, table) for table in ("DENSE", "BOXES", "CLIPS")):
        return f"{family_of(config)}-{_hosted_name(config)}"
    if not hasattr(module, "SPACE"):
        return family_of(config)
    parts = []
    for key in module_of(config).SPACE.choices:
        fields = (key,) if isinstance(key, str) else key
        parts.append("x".join(_short(getattr(config, field)) for field in fields))
    return "-".join([family_of(config), *parts])


def _hosted_name(config: Any) -> str:
    """Return the host's name, and what the head has else than by default."""
    host = config.host
    known = [m for m in networks().values() if type(host) is m.Config]
    name = config_name(host) if known else kind_of(type(host))
    usual, own = type(config)(), [f.name for f in fields(config) if f.name not in (*SHARED, "host")]
    changed = [_short(v) for n in own if (v := getattr(config, n)) != getattr(usual, n)]
    return "-".join([name, *changed])


def _short(value: Any) -> str:
    """Return one word: the sizes of stages joined by dots, a nested config
    by its kind and its sizes.
    """
    if is_dataclass(value):
        return "x".join([kind_of(type(value)), *map(_short, differing(value))])
    return ".".join(map(str, value)) if isinstance(value, tuple) else str(value)


def small_configs(
    family: str, *, image: tuple[int, int], channels: int, classes: int
) -> Iterator[Any]:
    """Yield the configs of a family's search space that can be built for such images."""
    module = families()[family]
    for config in module.SPACE.configs(image=image, channels=channels, classes=classes):
        try:
            skeleton(config)
        except ConfigError:
            continue
        yield config


def _near(name: str) -> str:
    """Return the end of a sentence about a name that is not a variant's."""
    from difflib import get_close_matches

    if name in families():
        some = [n for n, v in catalog().items() if v.family == name]
        more = ", ..." if len(some) > 3 else ""
        return f": that is a family, whose variants are {', '.join(some[:3])}{more}"
    close = get_close_matches(name, [*named(), *queried()], n=3)
    return f": did you mean {' or '.join(close)}?" if close else "; see `vitrail list`"
