"""Tensors that are still in their file: told by shape and type, read when they are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitrail.checkpoint.pickles import Build, Made, Name


class Unfit(Exception):
    """What a file holds that is not weights of a model, as the end of a sentence about it."""


SPREAD = 2**24  # values that a tensor may repeat of a smaller storage
_STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
    "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
    "QInt8": torch.int8, "QUInt8": torch.uint8, "QInt32": torch.int32,
}  # fmt: skip


@dataclass(eq=False)
class Storage:
    """A run of bytes in a file, of values of `dtype`; `read` returns them as uint8."""

    dtype: torch.dtype
    read: Callable[[], Tensor]
    kept: Tensor | None = None

    def bytes(self) -> Tensor:
        """Return the bytes, read at the first call."""
        if self.kept is None:
            self.kept = self.read()
        return self.kept


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in a file: where it lies in a storage. `tensor` reads it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def numel(self) -> int:
        return math.prod(self.shape)

    def tensor(self) -> Tensor:
        """Return the values. Raises ValueError where they would lie outside of the storage."""
        values = self.storage.bytes()
        item = self.dtype.itemsize
        values = values[: len(values) // item * item].view(self.dtype)
        whole = (self.offset, *self.shape, *self.strides)
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        if min(whole, default=0) < 0 or (self.numel() and last >= len(values)):
            raise ValueError(f"a tensor of {self.shape} lies outside of its {len(values)} values")
        if self.numel() > max(len(values), SPREAD):
            raise ValueError(f"a tensor of {self.shape} repeats {len(values)} values")
        return values.as_strided(self.shape, self.strides, self.offset)


@dataclass(frozen=True)
class Strange:
    """A tensor of a kind that no model of the catalog has, by its name: "sparse"."""

    kind: str


def storage_type(kind: Any) -> torch.dtype:
    """Return the type of values that a pickled storage's class names. Raises ValueError."""
    name = kind.name.removesuffix("Storage") if isinstance(kind, Name) else ""
    if name not in _STORAGES:
        raise ValueError(f"its values are of the type {kind.name if name else 'unknown'}")
    return _STORAGES[name]


def _whole(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > 64:
        raise ValueError("a tensor's shape is not a list of whole numbers")
    if not all(type(v) is int and abs(v) < 2**48 for v in values):
        raise ValueError("a tensor's shape is not a list of whole numbers")
    return tuple(values)


def _rebuilt(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Stored:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor has no storage")
    return _placed(storage, offset, shape, strides, storage.dtype)


def _rebuilt_typed(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, kind: Any, *_: Any
) -> Stored:
    dtype = getattr(torch, kind.name, None) if isinstance(kind, Name) else None
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor is of an unknown type")
    return _placed(storage, offset, shape, strides, dtype)


def _placed(storage: Storage, offset: Any, shape: Any, strides: Any, dtype: torch.dtype) -> Stored:
    sides, steps, (start,) = _whole(shape), _whole(strides), _whole([offset])
    if len(sides) != len(steps):
        raise ValueError("a tensor has more sides than strides")
    return Stored(storage, start, sides, steps, dtype)


def _subclass(function: Any, _kind: Any, arguments: Any, *_: Any) -> Any:
    build = TENSORS.get(function) if isinstance(function, Name) else None
    return build(*arguments) if build else Strange(str(function))


def _strange(kind: str) -> Build:
    return lambda *_: Strange(kind)


def _ordered(*arguments: Any) -> dict[Any, Any]:
    """Make the dict of an OrderedDict, whose items follow or are given as pairs."""
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
    return {k: v for k, v in pairs if isinstance(k, str | int)}


def _listed(*arguments: Any) -> list[Any]:
    return list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else []


def _encoded(text: Any, *_: Any) -> bytes:
    return text.encode("latin1") if isinstance(text, str) else b""


def _u(name: str) -> Name:
    return Name("torch._utils", name)


# What weights are made of, and of whose arguments they are made.
TENSORS: dict[Name, Build] = {
    _u("_rebuild_tensor"): _rebuilt,
    _u("_rebuild_tensor_v2"): _rebuilt,
    _u("_rebuild_tensor_v3"): _rebuilt_typed,
    _u("_rebuild_parameter"): lambda value, *_: value,
    _u("_rebuild_parameter_with_state"): lambda value, *_: value,
    _u("_rebuild_sparse_tensor"): _strange("sparse"),
    _u("_rebuild_qtensor"): _strange("quantised"),
    _u("_rebuild_nested_tensor"): _strange("nested"),
    _u("_rebuild_meta_tensor_no_storage"): _strange("without values"),
    Name("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    Name("torch.nn.parameter", "Parameter"): lambda value=None, *_: value,
    Name("torch", "Size"): lambda sides=(), *_: tuple(sides),
    Name("collections", "OrderedDict"): _ordered,
    Name("collections", "defaultdict"): lambda *_: {},
    Name("builtins", "dict"): _ordered,
    Name("builtins", "set"): _listed,
    Name("builtins", "frozenset"): _listed,
    Name("__builtin__", "set"): _listed,
    Name("_codecs", "encode"): _encoded,
}


MODULES = 100_000  # more than any network has


def flattened(made: Made) -> dict[str, Any] | None:
    """Return the tensors of a pickled or scripted network by their names; None of another object.

    Raises ValueError where its modules are nested without end.
    """
    if _parts(made) is None:
        return None
    found: dict[str, Any] = {}
    waiting = [("", made)]
    for _ in range(MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        values, inner = _parts(module) or ({}, {})
        found |= {f"{prefix}{name}": value for name, value in values.items() if value is not None}
        if len(prefix) < 1000:
            waiting += [(f"{prefix}{n}.", m) for n, m in reversed(inner.items())]
    raise ValueError("its modules are nested without end")


def _parts(made: Made) -> tuple[dict[Any, Any], dict[Any, Made]] | None:
    """Return the tensors and the modules that a module has, where the object is one."""
    state = made.state
    if not isinstance(state, dict):
        return None
    if isinstance(made.kind, Name) and made.kind.module.startswith("__torch__"):
        values = {n: v for n, v in state.items() if isinstance(v, Stored)}
        return values, {n: v for n, v in state.items() if isinstance(v, Made)}
    parameters, buffers, modules = (state.get(n) for n in ("_parameters", "_buffers", "_modules"))
    if not (isinstance(parameters, dict) and isinstance(buffers, dict)):
        return None
    if not isinstance(modules, dict):
        return None
    left_out = state.get("_non_persistent_buffers_set") or []
    kept = {n: v for n, v in buffers.items() if n not in left_out}
    return {**parameters, **kept}, {n: m for n, m in modules.items() if isinstance(m, Made)}
