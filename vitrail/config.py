"""Typed configuration: frozen dataclasses from JSON and back, and `--set a.b=value` on them.

A dataclass is the whole description of its JSON: the annotations are checked (by pydantic),
a field that does not exist is an error that names the nearest one, and where an annotation
is a union of dataclasses (`AdamW | Sgd`) the JSON carries `"kind"`, the class name in lower
case. Every error begins with the path of the field.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from vitrail import files
from vitrail.errors import ConfigError, RunError, VitrailError
from vitrail.units import shortened

T = TypeVar("T")
MOST_DEEP = 64
MOST_DIGITS = 30

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


def read_json(
    path: Path,
    kind: type[T],
    *,
    remedy: str,
    leave_out: Sequence[str] = (),
    error: type[VitrailError] = RunError,
) -> T:
    """Read a JSON file as the dataclass `kind`, or as a mapping where `kind` is dict.

    Whatever the file holds, what comes back is of the annotated types. Fields in `leave_out` are
    passed over. Raises `error`, which names the file, the field and the remedy.
    """
    try:
        value = loads(files.read(path))
        if kind is dict:
            if not isinstance(value, dict):
                raise ConfigError(f"it holds {shortened(repr(value), 40)}, not fields")
            return typing.cast(T, value)
        if isinstance(value, dict):
            value = {name: one for name, one in value.items() if name not in leave_out}
        return parse(kind, value)
    except FileNotFoundError as e:
        raise error(f"{path} is missing: {remedy}") from e
    except OSError as e:
        raise error(f"{path} cannot be read ({files.reason(e)}): {remedy}") from e
    except (ValueError, ConfigError) as e:
        raise error(f"{path} is damaged ({shortened(str(e), 300)}): {remedy}") from e


def loads(text: str | bytes) -> Any:
    """Read JSON whose nesting and numbers are bounded. Raises ValueError.

    NaN, infinities, numbers of more than 30 digits and more than 64 levels are refused: nothing
    that vitrail writes has them, and arithmetic or recursion would fail on them later.
    """
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode("utf-8"),
            parse_int=_bounded,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError as error:
        raise ValueError(f"more than {MOST_DEEP} levels") from error
    layer = [value]
    for _ in range(MOST_DEEP):
        layer = [one for outer in layer for one in _inside(outer)]
    if layer:
        raise ValueError(f"more than {MOST_DEEP} levels")
    return value


def _inside(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _bounded(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{shortened(text, 40)} is not a finite number")
    return value


def parse(kind: type[T], value: Any, path: str = "") -> T:
    """Make the dataclass `kind` of a mapping as read from JSON.

    Fields that are left out take their defaults. Raises ConfigError, beginning with the path
    of the field, for an unknown or missing field, a wrong type, or a value that the class
    itself refuses.
    """
    return _parse(kind, value, path, None)


def to_json(value: Any) -> Any:
    """Return mappings, lists, numbers, texts and None that `parse` reads back as an equal value."""
    return _dump(value, type(value))


def override(value: T, settings: Sequence[str]) -> T:
    """Copy a dataclass with settings such as `optimizer.lr=3e-4` applied in their order.

    `optimizer=sgd` chooses another member of a union, with its defaults; a list is written
    `28,28` or `[28, 28]`, and None is written `none`. Raises ConfigError like `parse`.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"{setting!r} is not a setting: write it as field=value")
        value = _replace(value, type(value), path.strip().split("."), text.strip(), "")
    return value


def nearest(name: str, names: Sequence[str]) -> str:
    """Suggest a known name for an unknown one: the end of an error's sentence."""
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(names) if names else 'none'}"


@cache
def hints(kind: type) -> dict[str, Any]:
    annotated = typing.get_type_hints(kind, include_extras=True)
    return {f.name: annotated[f.name] for f in fields(kind) if f.init}


def members(kind: Any) -> tuple[type, ...]:
    """Return the dataclasses of an annotation that consists of nothing else."""
    if isinstance(kind, type) and is_dataclass(kind):
        return (kind,)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return tuple(m for m in typing.get_args(kind) if isinstance(m, type) and is_dataclass(m))
    return ()


def _optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _element(kind: Any, index: int) -> Any:
    """Return the annotation of one element of a list or tuple, None where it has none."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) not in (tuple, list) or not arguments:
        return None
    if len(arguments) == 1 or arguments[-1] is Ellipsis:
        return arguments[0]
    return arguments[index] if index < len(arguments) else None


def kind_of(member: type) -> str:
    """Return by which name JSON and the command line know a class: PatchDropout, patch_dropout.

    A class that is only called Config goes by the name of its file.
    """
    if member.__name__ == "Config":
        return member.__module__.rpartition(".")[2]
    return re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", member.__name__).lower()


def _choose(among: tuple[type, ...], name: Any, path: str) -> type:
    known = {kind_of(m): m for m in among}
    plain = {kind.replace("_", ""): m for kind, m in known.items()}
    asked = str(name).lower().replace("-", "").replace("_", "")
    if asked not in plain:
        raise ConfigError(
            f"{_at(path)}kind {shortened(repr(name))} does not exist: "
            f"{nearest(str(name)[:80], [*known])}"
        )
    return plain[asked]


def _parse(kind: Any, value: Any, path: str, default: Any) -> Any:
    among = members(kind)
    if among:
        if value is None and _optional(kind):
            return None
        if isinstance(value, among):
            return value
        if not isinstance(value, Mapping):
            said = shortened(repr(value))
            raise ConfigError(
                f'{_at(path)}{said} is not a mapping of fields: write {{"name": value}}'
            )
        if len(among) == 1 and ("kind" not in value or "kind" in hints(among[0])):
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
    annotated = hints(kind)
    for name in value:
        if name not in annotated:
            near = nearest(str(name)[:80], [*annotated])
            raise ConfigError(f"{shortened(_join(path, name))}: no such field: {near}")
    made = {}
    for field in fields(kind):
        here = _join(path, field.name)
        if field.name in value:
            default = None if field.default is MISSING else field.default
            made[field.name] = _parse(annotated[field.name], value[field.name], here, default)
        elif field.init and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{here}: is missing and has no default: give a value")
    try:
        return kind(**made)
    except (ValueError, TypeError, ArithmeticError, ConfigError) as error:
        raise ConfigError(f"{_at(path)}{shortened(str(error), 300)}") from error


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
        told = f"{path}: {shortened(repr(value))} {shortened(said)}"
        raise ConfigError(f"{told}: give {_spoken(kind)}{such}") from error


def _spoken(kind: Any) -> str:
    """Write an annotation for a reader."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_spoken(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(repr(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) in (tuple, list) and typing.get_args(kind):
        return _spoken_list(typing.get_args(kind))
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    if kind in names:
        return names[kind]
    return "none" if kind is type(None) else str(kind).replace("typing.", "")


def _spoken_list(among: tuple[Any, ...]) -> str:
    """Return the annotation of a list as a reader would write it: 2 whole numbers."""
    named = {float: "numbers", int: "whole numbers", str: "texts", bool: "true or false"}
    first = among[0]
    several = named.get(first) or f"lists of {_spoken(first).removeprefix('a list of ')}"
    if among[1:] in ((), (Ellipsis,)):
        return f"a list of {several}"
    if all(member == first for member in among):
        return f"{len(among)} {several}"
    return f"a list of {', '.join(map(_spoken, among))}"


def _dump(value: Any, kind: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        annotated = hints(type(value))
        named = {"kind": kind_of(type(value))} if len(members(kind)) > 1 else {}
        return named | {name: _dump(getattr(value, name), hint) for name, hint in annotated.items()}
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
    if isinstance(value, tuple) and name.isdigit() and int(name) < len(value):
        at = int(name)
        new = _replace(value[at], _element(kind, at), rest, text, here)
        return (*value[:at], new, *value[at + 1 :])
    if not is_dataclass(value):
        raise ConfigError(f"{here}: {path} is {value!r}, which has no fields: set {path} itself")
    annotated = hints(type(value))
    if name not in annotated:
        raise ConfigError(f"{here}: no such field: {nearest(name, [*annotated])}")
    new = _replace(getattr(value, name), annotated[name], rest, text, here)
    kept = {other: getattr(value, other) for other in annotated}
    return _build(type(value), kept | {name: new}, path)


def _from_text(kind: Any, old: Any, text: str, path: str) -> Any:
    if kind is type(None):
        kind = typing.Any
    among = members(kind)
    if text.lower() in ("none", "null") and (_optional(kind) or kind is typing.Any):
        return None
    read = _read(text)
    several = members(_element(kind, 0)) if typing.get_origin(kind) is tuple else ()
    if several and isinstance(read, str):
        # One or more of a union, each with its defaults: `methods=freeze,patch_dropout`, and in
        # brackets as well.
        names = text[1:-1] if text[:1] + text[-1:] == "[]" else text
        return tuple(
            _build(_choose(several, one.strip(), path), {}, path) for one in names.split(",")
        )
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
    """Read JSON where the text is JSON, a list where brackets make it one, else the text."""
    for form in (text, f"[{text}]"):
        try:
            return loads(form)
        except ValueError:
            continue
    return text


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)


def _at(path: str) -> str:
    return f"{path}: " if path else ""
