"""NumPy's arrays in files: `.npz`, Flax's msgpack, and those inside of pickles."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.checkpoint.archive import Archive
from vitrail.checkpoint.pickles import Build, Name
from vitrail.errors import CheckpointError, extra


def tensor(value: np.ndarray) -> Tensor:
    """Return an array as a tensor; raw values of two bytes are bfloat16. Raises ValueError."""
    if value.dtype.kind == "V" and value.dtype.itemsize == 2:
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    if value.dtype.kind not in "biufc":
        raise ValueError(f"it holds an array of {value.dtype}: expected numbers")
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]).reshape(value.shape))


def npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an `.npz`, their sizes compared with the file's before they are read."""
    with Archive(path) as archive:
        names = [n for n in archive.sizes if n.endswith(".npy")]
        return {n.removesuffix(".npy"): tensor(_npy(archive.read(n))) for n in names}


def _npy(data: bytearray) -> np.ndarray:
    """Return the array of an `.npy`."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"an array is of the version {version}")
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds an array of objects, which could run code when read")
    values = np.frombuffer(data, dtype, offset=stream.tell())
    if math.prod(shape) != len(values):
        raise ValueError(f"an array of {shape} has {len(values)} values")
    return values.reshape(shape, order="F" if fortran else "C")


# ---- msgpack -----------------------------------------------------------------------------


def is_msgpack(path: Path) -> bool:
    """Return whether a file begins as a map of msgpack does: Flax's checkpoints have no suffix."""
    with path.open("rb") as file:
        start = file.read(2)
    # A pickle begins with 0x80, which in msgpack is a map of nothing.
    return start[:1] > b"\x80" and (start[0] <= 0x8F or start[0] in (0xDE, 0xDF))


def msgpack(path: Path, name: str) -> dict[str, Tensor]:
    """Read what Flax packed: nested maps, whose arrays are an extension
    of (shape, dtype, bytes).
    """
    try:
        import msgpack as library
    except ImportError as e:
        raise CheckpointError(
            f"checkpoint {name} is Flax's msgpack, which needs a package: {extra('flax')}"
        ) from e

    def extension(code: int, packed: bytes) -> Any:
        if code not in (1, 3):  # an array, a scalar
            return None
        shape, dtype, values = library.unpackb(packed, raw=True)
        dtype = dtype.decode()
        kind = np.dtype("V2") if dtype == "bfloat16" else np.dtype(dtype)
        return np.frombuffer(values, kind).reshape(shape)

    data = path.read_bytes()
    unpacked = library.unpackb(data, ext_hook=extension, raw=False, strict_map_key=False)
    return dict(_slashed(unpacked))


def _slashed(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the arrays of nested maps, by their names joined with slashes."""
    if isinstance(value, np.ndarray):
        yield path, tensor(value)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _slashed(inner, f"{path}/{name}" if path else str(name))


# ---- inside of pickles -------------------------------------------------------------------


class Array:
    """An array of a pickle, whose values come after it is made."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def restored(self, state: Any) -> None:
        """Take (version, shape, dtype, Fortran's order, bytes)."""
        _, shape, kind, fortran, data = state
        if isinstance(data, bytes | bytearray):
            values = np.frombuffer(data, _dtype(kind))
            if math.prod(shape) != len(values):
                raise ValueError(f"an array of {shape} has {len(values)} values")
            self.value = tensor(values.reshape(shape, order="F" if fortran else "C"))


class Dtype:
    """A type of NumPy's, whose order of bytes comes after it is made."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code, self.order = str(code), "="

    def restored(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]


def _dtype(kind: Any) -> np.dtype:
    if not isinstance(kind, Dtype):
        raise ValueError("an array is of an unknown type")
    dtype = np.dtype(kind.code)
    if dtype.kind not in "biufcV":
        raise ValueError(f"it holds an array of {dtype}: expected numbers")
    return dtype.newbyteorder(">") if kind.order == ">" else dtype


def _scalar(kind: Any = None, data: Any = b"", *_: Any) -> Any:
    """Return a number of NumPy's as Python's; None for values that are not numbers."""
    if not isinstance(kind, Dtype) or not isinstance(data, bytes | bytearray):
        return None
    try:
        return np.frombuffer(data, _dtype(kind), 1)[0].item()
    except ValueError:
        return None


ARRAYS: dict[Name, Build] = {
    Name("numpy", "dtype"): Dtype,
    **{
        Name(f"numpy.{core}.multiarray", name): build
        for core in ("core", "_core")
        for name, build in (("_reconstruct", lambda *_: Array()), ("scalar", _scalar))
    },
}


def plain(value: Any) -> Any:
    """Return a pickled array's tensor; any other value as it is."""
    return value.value if isinstance(value, Array) else value
