"""What a Config cannot be, said before anything is built: types, ranges, lengths of stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

from vitrail.config import nearest, parse
from vitrail.errors import ConfigError
from vitrail.models.trunk.hosts import opened

MOST = 10**6  # of any whole number
SIDE = 2**16  # pixels
BLOCKS = 1000
# Fields that say how many blocks there are.
COUNTS = ("depth", "depths", "cells", "stem_cells", "reading", "convs", "units", "paths")


def checked(config: Any, changes: Mapping[str, Any], module: ModuleType) -> Any:
    """Return `config` with some fields replaced, all of them checked by their annotations.

    Lists become tuples and NumPy's numbers Python's. A whole number may be zero, and a tuple of
    another length than `depths`, only where a published variant of the family has it so. Raises
    ConfigError, which begins with the field.
    """
    known = [f.name for f in fields(config)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: no such field of {module.__name__}.Config; "
            f"{nearest(unknown[0], known)}; it has {', '.join(sorted(known))}"
        )
    kind = type(config)
    try:
        given = {name: opened(kind, name, _plain(value)) for name, value in changes.items()}
    except ValueError as error:
        raise ConfigError(str(error)) from error
    values = {name: _plain(getattr(config, name)) for name in known} | given
    found = parse(kind, values)
    rules = _rules(module)
    for field in known:
        for number in _numbers(getattr(found, field)):
            _check_number(field, number, rules)
    lengths = {f: len(getattr(found, f)) for f in rules.staged}
    for field, length in lengths.items():
        if length != lengths["depths"]:
            raise ConfigError(
                f"depths is {found.depths} and {field} is {getattr(found, field)}: expected as "
                "many values, one for each stage; give both"
            )
    return found


def blocks(config: Any) -> int:
    """Return how many blocks the counts of a config ask for, at least."""
    found = (getattr(config, name, 0) for name in COUNTS)
    return sum(n for value in found for n in _numbers(value) if type(n) is int)


class Rules(NamedTuple):
    """Fields that may be zero, and those that have a value for each stage."""

    zero: frozenset[str]
    staged: tuple[str, ...]


@lru_cache(maxsize=128)
def _rules(module: ModuleType) -> Rules:
    space = getattr(module, "SPACE", None)
    examples = [module.Config(), *(v.config for v in getattr(module, "VARIANTS", {}).values())]
    examples += [space.base] if space else []
    # Blocks without a halo, no heads mixed again, a series without a block: small, but whole.
    zero = {"classes", "reattention", "halo"} | (
        set() if hasattr(module, "VARIANTS") else {"depth"}
    )
    for key, choices in (space.choices if space else {}).items():
        if any(0 in (*_numbers(value),) for value in choices):
            zero |= {key} if isinstance(key, str) else set(key)
    names = [f.name for f in fields(module.Config)]
    zero |= {n for n in names for e in examples if 0 in (*_numbers(getattr(e, n)),)}
    tuples = [n for n in names if all(isinstance(getattr(e, n), tuple) for e in examples)]
    staged = (
        n for n in tuples if all(len(getattr(e, n)) == len(e.depths) for e in examples)
    ) if "depths" in tuples else ()  # fmt: skip
    return Rules(frozenset(zero), tuple(staged))


def _check_number(field: str, number: int | float, rules: Rules) -> None:
    most = SIDE if field == "image" else BLOCKS if field in COUNTS else MOST
    if isinstance(number, float):
        share = field == "drop_path" or field.endswith("dropout")
        if not math.isfinite(number) or (share and not 0 <= number < 1):
            what = "a share from 0 to below 1" if share else "a finite number"
            raise ConfigError(f"{field} is {number}: expected {what}")
    elif number < 0 or (number == 0 and field not in rules.zero):
        raise ConfigError(f"{field} is {number}: expected at least {int(field not in rules.zero)}")
    elif number > most:
        raise ConfigError(f"{field} is {_short(number)}: expected at most {most}")


def _short(number: int) -> str:
    return str(number) if number < 10**30 else f"a number of {number.bit_length()} bits"


def _numbers(value: Any) -> Iterator[int | float]:
    """Yield the numbers in a field, at any depth of tuples."""
    if isinstance(value, tuple):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _plain(value: Any) -> Any:
    """Turn lists into tuples, and NumPy's and PyTorch's numbers into Python's."""
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return value.item()
    return value
