"""Typed configuration: frozen dataclasses from JSON and back, and `--set a.b=value` on them.

A dataclass is the whole description of its JSON: the annotations are checked (by pydantic),
a field that does not exist is an error that names the nearest one, and where an annotation
is a union of dataclasses (`AdamW | Sgd`) the JSON carries `"kind"`, the class name in lower
case (of a class called Config, its file's name). Every error begins with the path of the field.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar

from vitrail.errors import ConfigError

T = TypeVar("T")

_EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a text",
    "none_required": "none",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def parse(kind: type[T], value: Any, path: str = "") -> T:
    """The dataclass `kind` from a mapping as read from JSON.

    Fields that are left out take their defaults. Raises ConfigError, beginning with the path
    of the field, for an unknown or missing field, a wrong type, or a value that the class
    itself refuses.
    """
    return _parse(kind, value, path, None)


def to_json(value: Any) -> Any:
    """What `parse` reads back into an equal value: mappings, lists, numbers, texts, None."""
    return _dump(value, type(value))


def override(value: T, settings: Sequence[str]) -> T:
    """A copy of a dataclass with settings such as `optimizer.lr=3e-4` applied in their order.

    `optimizer=sgd` chooses another member of a union, with its defaults; a list is written
    `28,28` or `[28, 28]`, nothing is `none`. Raises ConfigError like `parse`.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"{setting!r} is no setting: write it as field=value")
        value = _replace(value, type(value), path.strip().split("."), text.strip(), "")
    return value


def nearest(name: str, names: Sequence[str]) -> str:
    """A sentence's end for an unknown name: the nearest known one, or all of them."""
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(names) if names else 'none'}"


@cache
def hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields by their names."""
    found = typing.get_type_hints(kind, include_extras=True)
    return {f.name: found[f.name] for f in fields(kind) if f.init}


def kind_of(member: type) -> str:
    """Return what a member of a union is called in JSON: the class's name in lower case, of a
    class that is only called Config the name of its file."""
    name = member.__name__.lower()
    return member.__module__.rpartition(".")[2] if name == "config" else name


def members(kind: Any) -> tuple[type, ...]:
    """Return the dataclasses in an annotation that is a union, or that one which it is."""
    if isinstance(kind, type) and is_dataclass(kind):
        return (kind,)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(m for m in typing.get_args(kind) if isinstance(m, type) and is_dataclass(m))
    return ()


def _optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _element(kind: Any, index: int) -> Any:
    """The annotation of one element of a list or tuple, None when it has none."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) not in (tuple, list) or not arguments:
        return None
    if len(arguments) == 1 or arguments[-1] is Ellipsis:
        return arguments[0]
    return arguments[index] if index < len(arguments) else None


def _choose(among: tuple[type, ...], name: Any, path: str) -> type:
    known = {kind_of(m): m for m in among}
    if name not in known:
        raise ConfigError(
            f"{_at(path)}kind {name!r} does not exist: {nearest(str(name), [*known])}"
        )
    return known[name]


def _parse(kind: Any, value: Any, path: str, default: Any) -> Any:
    among = members(kind)
    if among:
        if value is None and _optional(kind):
            return None
        if isinstance(value, among):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{_at(path)}{value!r} is not a mapping of fields: write name: value")
        if len(among) == 1:
            return _build(among[0], value, path)
        if "kind" not in value:
            names = ", ".join(kind_of(m) for m in among)
            raise ConfigError(f"{_at(path)}the field 'kind' is missing: give one of {names}")
        rest = {k: v for k, v in value.items() if k != "kind"}
        return _build(_choose(among, value["kind"], path), rest, path)
    inner = _element(kind, 0)
    if inner is not None and members(inner) and isinstance(value, (list, tuple)):
        found = [_parse(_element(kind, i), v, f"{path}.{i}", None) for i, v in enumerate(value)]
        return typing.get_origin(kind)(found)
    return _leaf(kind, value, path, default)


def _build(kind: type, value: Mapping[str, Any], path: str) -> Any:
    known = hints(kind)
    for name in value:
        if name not in known:
            raise ConfigError(f"{_join(path, name)}: no such field: {nearest(str(name), [*known])}")
    made = {}
    for field in fields(kind):
        here = _join(path, field.name)
        if field.name in value:
            default = None if field.default is MISSING else field.default
            made[field.name] = _parse(known[field.name], value[field.name], here, default)
        elif field.init and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{here}: is missing and has no default: give a value")
    try:
        return kind(**made)
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{_at(path)}{error}") from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _leaf(kind: Any, value: Any, path: str, default: Any) -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        expected = _EXPECTED.get(first["type"])
        reason = first["msg"][0].lower() + first["msg"][1:]
        said = f"is not {expected}" if expected else f"does not fit: {reason}"
        such = f", such as {_dump(default, type(default))!r}" if default is not None else ""
        raise ConfigError(f"{path}: {value!r} {said}: give {_spoken(kind)}{such}") from error


def _spoken(kind: Any) -> str:
    """An annotation as a reader would write it."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_spoken(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(member) for member in typing.get_args(kind))
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    if kind in names:
        return names[kind]
    return "none" if kind is type(None) else str(kind).replace("typing.", "")


def _dump(value: Any, kind: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        named = {"kind": kind_of(type(value))} if len(members(kind)) > 1 else {}
        known = hints(type(value))
        return named | {name: _dump(getattr(value, name), hint) for name, hint in known.items()}
    if isinstance(value, Mapping):
        return {str(k): _dump(v, type(v)) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_dump(v, _element(kind, i) or type(v)) for i, v in enumerate(value)]
    return value


def _replace(value: Any, kind: Any, steps: list[str], text: str, path: str) -> Any:
    if not steps:
        return _from_text(kind, value, text, path)
    name, rest = steps[0], steps[1:]
    here = _join(path, name)
    if isinstance(value, Mapping):
        if rest and name not in value:
            raise ConfigError(f"{here}: no such field: {nearest(name, [*value])}")
        old = value.get(name)
        return {**value, name: _replace(old, type(old), rest, text, here)}
    if not is_dataclass(value):
        raise ConfigError(f"{here}: {path} is {value!r}, which has no fields: set {path} itself")
    known = hints(type(value))
    if name not in known:
        raise ConfigError(f"{here}: no such field: {nearest(name, [*known])}")
    new = _replace(getattr(value, name), known[name], rest, text, here)
    kept = {other: getattr(value, other) for other in known}
    return _build(type(value), kept | {name: new}, path)


def _from_text(kind: Any, old: Any, text: str, path: str) -> Any:
    if kind is type(None):
        kind = typing.Any
    among = members(kind)
    if text.lower() in ("none", "null") and (_optional(kind) or kind is typing.Any):
        return None
    read = _read(text)
    if among:
        if isinstance(read, str):
            return _build(_choose(among, read.lower(), path), {}, path)
        return _parse(kind, read, path, old)
    if kind is dict or typing.get_origin(kind) is dict or kind is typing.Any:
        return read
    try:
        return _parse(kind, read, path, old)
    except ConfigError as error:
        try:
            # A text may look like a number (a folder called 2024) or a list.
            return _parse(kind, text, path, old)
        except ConfigError:
            raise error from None


def _read(text: str) -> Any:
    """JSON where the text is JSON, a list where it becomes one in brackets, else the text."""
    for form in (text, f"[{text}]"):
        try:
            return json.loads(form)
        except json.JSONDecodeError:
            continue
    return text


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)


def _at(path: str) -> str:
    return f"{path}: " if path else ""
