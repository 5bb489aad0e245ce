"""Reading files of weights through one door: whatever is wrong with a file, CheckpointError says
it, with the file's name, and nothing in the file is ever run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail import files
from vitrail.checkpoint import arrays, torchfile
from vitrail.checkpoint.door import MAPPING, door
from vitrail.checkpoint.places import located
from vitrail.checkpoint.seal import check
from vitrail.checkpoint.stored import Stored, Strange, Unfit
from vitrail.checkpoint.unwrapping import unwrap

State = dict[str, Tensor]


@dataclass(frozen=True)
class Contents:
    """The named tensors of a source, and what was written beside them.

    `about` has "words" that name a model, perhaps "mean", "std", "interpolation"; `written` is
    what `save` was given as metadata, as far as it is a mapping.
    """

    state: State
    about: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, Any] = field(default_factory=dict)


def read(source: str | os.PathLike | Mapping[str, Any]) -> State:
    """Return the state dict of a file, a folder, a Hub reference, or a mapping.

    Wrappers of training scripts are taken off (`unwrapping`). Files are `.safetensors`, `.npz`,
    Flax's msgpack (nested names joined by slashes), or PyTorch's, in which nothing is run; a
    folder is one of a library's, also of shards with an index. `hf-hub:owner/name[/file]`
    downloads from the Hugging Face Hub, which happens only when such a reference is given.
    Raises CheckpointError.
    """
    return contents(source).state


def contents(source: str | os.PathLike | Mapping[str, Any]) -> Contents:
    """Return what `read` does, with what is written beside the tensors."""
    if isinstance(source, Mapping):
        with door(MAPPING):
            unwrapped = unwrap(source)
            return Contents(_values(unwrapped.state), unwrapped.about)
    name = os.fspath(source)
    path = located(source)
    with door(name):
        if path.name.endswith(".index.json"):
            return _sharded(path)
        value, written = _opened(path, name)
        unwrapped = unwrap(value)
        return Contents(_values(unwrapped.state), unwrapped.about, written)


def everything(source: str | os.PathLike | Mapping[str, Any]) -> State:
    """Return all tensors of a file or a mapping, also those that `read` passes over, the names of
    mappings in mappings joined by dots: of "student", "teacher" and what a loss keeps.

    Raises CheckpointError.
    """
    name = MAPPING if isinstance(source, Mapping) else os.fspath(source)
    with door(name):
        value = source if isinstance(source, Mapping) else _opened(located(name), name)[0]
        return _values(dict(_leaves(value, "")))


def _leaves(value: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _leaves(one, f"{before}{name}.")
        elif isinstance(one, Tensor | Stored | Strange):
            yield f"{before}{name}", one


def _opened(path: Path, name: str) -> tuple[Any, Mapping[str, Any]]:
    """Return a file's value, and what vitrail wrote as its metadata."""
    with files.reading(path) as file:
        start = file.read(10)
    if path.suffix == ".safetensors" or start[8:10] == b'{"':
        return _safetensors(path)
    if path.suffix == ".npz":
        return arrays.npz(path), {}
    if path.suffix == ".msgpack" or arrays.is_msgpack(path):
        return arrays.msgpack(path, name), {}
    return torchfile.read(path), {}


def _safetensors(path: Path) -> tuple[State, Mapping[str, Any]]:
    from safetensors.torch import load_file

    state, texts = load_file(path), _texts(path)
    check(state, texts)
    return state, written(texts)


def _texts(path: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def written(texts: Mapping[str, str]) -> Mapping[str, Any]:
    """Return what `save` wrote among a file's metadata; empty where that is not a mapping."""
    try:
        found = json.loads(texts.get("vitrail", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def metadata(source: Any) -> Mapping[str, Any]:
    """Return what `save` wrote beside the weights of a file; empty for all other sources."""
    if isinstance(source, Mapping) or Path(source).suffix != ".safetensors":
        return {}
    try:
        return written(_texts(Path(source)))
    except Exception:
        return {}  # `read` says what is wrong with such a file


def _values(state: Mapping[str, Any]) -> State:
    """Return the tensors themselves; refuse by name those that no model has."""
    for name, value in state.items():
        kind = _strange(value)
        if kind:
            raise Unfit(f"holds {name[:80]}, which is {kind}: expected plain real numbers")
    return {n: v.tensor() if isinstance(v, Stored) else v for n, v in state.items()}


def _strange(value: Any) -> str:
    import torch

    if isinstance(value, Strange):
        return value.kind
    if value.dtype.is_complex:
        return f"complex ({str(value.dtype).removeprefix('torch.')})"
    if isinstance(value, Tensor):
        if value.is_quantized:
            return "quantised"
        if value.layout != torch.strided:
            return "sparse"
    return ""


# ---- shards ------------------------------------------------------------------------------


def _sharded(index: Path) -> Contents:
    """Return the tensors of all files that an index names; they lie beside it."""
    listed = json.loads(files.read(index).decode("utf-8"))
    places = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
        raise ValueError("its weight_map is missing")
    state: State = {}
    for name in dict.fromkeys(places.values()):
        shard = index.parent / name
        if Path(name).name != name or not shard.is_file():
            raise Unfit(f"names the file {name[:80]}, which is missing: fetch it")
        state |= _values(unwrap(_opened(shard, str(shard))[0]).state)
    lacking = [name for name in places if name not in state]
    if lacking:
        raise Unfit(f"names {lacking[0]}, which none of its files has: fetch them again")
    return Contents(state)
