"""Papers that put something of their own into another paper's network, their host.

Their Config derives from `Hosted` and holds the host's own Config, whole, in the field `host`: what
sizes a host has is said in the host's file alone. A family with several hosts builds each by a
function of its own, which a table finds by the type of `host`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any

from vitrail.config import hints, kind_of, members, parse, to_json
from vitrail.errors import ConfigError
from vitrail.models.trunk.positions import Table, borrowed

SHARED = ("drop_path", "image", "channels", "classes")


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """What every Config with a `host` shares with it: left out it is the host's, given it is put
    into the host too, so that both always say the same.

    Raises ValueError for a host of another kind than the annotation's.
    """

    host: Any
    drop_path: float | None = None
    image: tuple[int, int] | None = None
    channels: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        check(type(self), "host", self.host)
        for name in SHARED:
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.host, name))
        own = {name: getattr(self, name) for name in SHARED}
        object.__setattr__(self, "host", replace(self.host, **own))


def check(config: type, name: str, value: Any) -> None:
    """Raise ValueError for a value that is none of the dataclasses which a Config's field holds."""
    known = members(hints(config)[name])
    # A config that derives from a known one has a kind that its JSON could not be read by.
    if known and type(value) not in known:
        raise ValueError(
            f"{name} is {value!r}: expected one of the kinds {', '.join(map(kind_of, known))}"
        )


def nested(config: Any) -> dict[str, Any]:
    """Return as JSON those fields of a config that hold a dataclass: its kind and its fields, of a
    host without those that are the whole network's."""
    found, values = {}, to_json(config)
    for field in fields(config):
        if is_dataclass(getattr(config, field.name)):
            left_out = SHARED if field.name == "host" else ()
            inner = values[field.name]
            found[field.name] = {k: v for k, v in inner.items() if k not in left_out}
    return found


def differing(nested: Any) -> list[Any]:
    """Return what a nested config has else than by default, beside what it shares."""
    usual, names = type(nested)(), [f.name for f in fields(nested) if f.name not in SHARED]
    return [getattr(nested, n) for n in names if getattr(nested, n) != getattr(usual, n)]


def opened(config: type, name: str, value: Any) -> Any:
    """Return the value of a Config's field, read from a mapping where the field holds a dataclass.

    Raises ConfigError that begins with the field, ValueError for a value of no kind.
    """
    if not isinstance(value, Mapping):
        check(config, name, value)
        return value
    for taken in SHARED if name == "host" else ():
        if taken in value:
            raise ConfigError(
                f"host.{taken}: is the whole network's, not the host's: give {taken} itself"
            )
    return parse(hints(config)[name], value, name)


Earlier = Callable[[Mapping[str, Any]], dict[str, Any]]
# For each field that was a word, and each such word, what makes today's fields of the ones beside.
Flat = Mapping[str, Mapping[str, Earlier]]


def moved(
    kind: str,
    *names: str,
    field: str = "host",
    made: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
) -> Earlier:
    """Return a function for a `Flat`, whose value of this kind takes the fields `names` as they
    were and others that are `made` of all values."""

    def fields_of(values: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: values[name] for name in names}
        return {field: {"kind": kind, **kept, **{n: make(values) for n, make in made.items()}}}

    return fields_of


def unflattened(config: type, values: Mapping[str, Any], table: Flat) -> dict[str, Any]:
    """Return the fields of a Config from those that were written when one of them was a word, whose
    own sizes stood beside it. Raises ConfigError for an unknown word or a missing size."""
    for field, words in table.items():
        word = values.get(field)
        if not isinstance(word, str):
            continue
        if word not in words:
            raise ConfigError(f"{field}: {word!r} is unknown: known are {', '.join(words)}")
        try:
            made = words[word](values)
        except KeyError as error:
            raise ConfigError(
                f"{error.args[0]}: is missing beside {field}={word!r}, the old way to write one: "
                f"give {field} as a mapping of its kind and its own sizes"
            ) from error
        kept = {name: v for name, v in values.items() if name in hints(config)}
        values = {**kept, **made}
    return dict(values)


def host_module(config: Any) -> Any:
    """Return the module of the host's network: where its Config, or what that derives from, is."""
    kinds = type(config.host).__mro__
    own = type(config).__module__
    return sys.modules[next(kind.__module__ for kind in kinds if kind.__module__ != own)]


def positions(config: Any) -> tuple[Table, ...]:
    """Return the rows of the host's positions; what is the guest's own stays as it is."""
    return borrowed(host_module(config), lambda guest: guest.host)
