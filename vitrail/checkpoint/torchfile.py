"""PyTorch's files, zip archives and the older streams, as data: see `pickles`."""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.checkpoint.archive import Archive
from vitrail.checkpoint.arrays import ARRAYS
from vitrail.checkpoint.pickles import unpickled
from vitrail.checkpoint.stored import TENSORS, Storage, storage_type

_MAGIC = 0x1950A86A20F9469CFC6C
_BUILDERS = {**TENSORS, **ARRAYS}


def read(path: Path) -> Any:
    """Read a file of PyTorch's, or a plain pickle: tensors become `Stored`, objects `Made`.

    Values are read when they are asked for. Raises what damaged data raises.
    """
    return _zipped(path) if zipfile.is_zipfile(path) else _streamed(path)


def _zipped(path: Path) -> Any:
    archive = Archive(path)  # closed with the last of the tensors that are still in it
    pickles = [n for n in archive.sizes if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it is an archive without the data of a checkpoint")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.sizes and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("its numbers are in the order of bytes of another machine")

    def find(key: str, _dtype: torch.dtype, _count: int) -> Callable[[], Tensor]:
        name = f"{root}data/{key}"
        if name not in archive.sizes:
            raise ValueError(f"the values {key[:40]!r} are not in the file")
        return lambda: _bytes(archive.read(name))

    return unpickled(io.BytesIO(archive.read(pickles[0])), _BUILDERS, _Storages(find))


def _bytes(data: bytearray) -> Tensor:
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


class _Storages:
    """Storages by the persistent identifiers of a pickle, one for each key."""

    def __init__(self, find: Callable[[str, torch.dtype, int], Callable[[], Tensor]]) -> None:
        self.find = find
        self.found: dict[str, Storage] = {}

    def __call__(self, identifier: Any) -> Any:
        if not isinstance(identifier, tuple) or len(identifier) < 2:
            raise ValueError("it refers to values that are not in the file")
        if identifier[0] == "module":  # the source of a class, which is not read
            return identifier[1]
        _, kind, key, _place, count = identifier[:5]
        if type(count) is not int or not 0 <= count < 2**48:
            raise ValueError("a storage is of an unknown size")
        view = identifier[5] if len(identifier) > 5 else None
        if view is not None:
            raise ValueError("a storage is a view of another: save it anew by a later PyTorch")
        name = str(key)
        if name not in self.found:
            dtype = storage_type(kind)
            self.found[name] = Storage(dtype, self.find(name, dtype, count))
        return self.found[name]


def _streamed(path: Path) -> Any:
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = unpickled(data, _BUILDERS)
        if first != _MAGIC:
            return first  # a plain pickle
        version, system = unpickled(data, _BUILDERS), unpickled(data, _BUILDERS)
        little = isinstance(system, dict) and system.get("little_endian", True)
        if version != 1001 or not little:
            raise ValueError("it was written by a PyTorch, or on a machine, of another kind")
        return _with_values(data)


def _with_values(data: mmap.mmap) -> Any:
    """Read the object and the storages that follow it one after the other: count, then values."""
    sizes: dict[str, tuple[torch.dtype, int]] = {}
    values: dict[str, Tensor] = {}

    def find(key: str, dtype: torch.dtype, count: int) -> Callable[[], Tensor]:
        sizes[key] = dtype, count
        return lambda: values[key]

    found, keys = unpickled(data, _BUILDERS, _Storages(find)), unpickled(data, _BUILDERS)
    if not isinstance(keys, list):
        raise ValueError("the list of its values is missing")
    for key in keys:
        dtype, count = sizes[str(key)]
        told = int.from_bytes(data.read(8), "little")
        if told != count or data.size() - data.tell() < count * dtype.itemsize:
            raise ValueError(f"{told} of {count} values are there")
        values[str(key)] = _bytes(bytearray(data.read(count * dtype.itemsize)))
    return found
