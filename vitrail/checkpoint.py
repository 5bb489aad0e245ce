"""Weights on disk: safe reading, renaming by tables, strict loading, saving.

A name table is a list of rows `(pattern, target)` or `(pattern, target, function)`, applied
in order to every name of the file:

- a pattern matches at the start of a name, or anywhere if it begins with a dot; `{i}` stands
  for a number, which the target may use with an offset: `("layers.{i}.down.",
  "stages.{i+1}.down.")`;
- the target None drops the entry (a buffer that is recomputed);
- `function` maps the value of every entry that the row matches;
- a target may be a tuple of names, then `function` returns as many values;
- a final name that ends in `[k/n]` is part k of n, joined along axis 0; one that ends in
  `[+]` is a summand, in `[+n]` one of n.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.errors import CheckpointError, extra

State = dict[str, Tensor]
Row = tuple[Any, ...]
_EMA = ("model_ema", "state_dict_ema", "ema_state")  # averaged weights come first
_WRAPPERS = (*_EMA, "model", "state_dict", "model_state", "module", "net", "params")
_PREFIXES = ("module.", "_orig_mod.")


# ---- reading ---------------------------------------------------------------------------


def read(source: str | os.PathLike | Mapping[str, Any]) -> State:
    """The state dict of a file, a Hub reference, or a mapping, without its wrappers.

    Files are `.safetensors`, `.npz`, Flax's msgpack (nested names joined by slashes), or
    PyTorch's, which are read with `weights_only`, so that no code in them runs.
    `hf-hub:owner/name[/file]` downloads from the Hugging Face
    Hub, which happens only when such a reference is given. Raises CheckpointError.
    """
    if isinstance(source, Mapping):
        return _unwrap(source, "the given mapping")
    name = os.fspath(source)
    path = _download(name) if name.startswith("hf-hub:") else Path(name)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {name} {what}: give the path of a file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return _unwrap(load_file(path), name)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return _unwrap({k: _array(file[k]) for k in file.files}, name)
        if path.suffix == ".msgpack" or _is_msgpack(path):
            return _unwrap(dict(_flattened(_unpacked(path.read_bytes(), name))), name)
        return _unwrap(torch.load(path, map_location="cpu", weights_only=True), name)
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"checkpoint {name} was refused: it holds objects other than tensors, which could "
            "run code when read, or it is no checkpoint; ask for a .safetensors file"
        ) from e
    except (OSError, RuntimeError, ValueError, EOFError, BadZipFile, KeyError) as e:
        raise CheckpointError(
            f"checkpoint {name} cannot be read ({_first_line(e)}): it is truncated or of an "
            "unknown format; .safetensors, .pth, .pt, .bin, .npz and .msgpack are known"
        ) from e
    except Exception as e:
        if type(e).__name__ != "SafetensorError":
            raise
        raise CheckpointError(
            f"checkpoint {name} cannot be read ({_first_line(e)}): it is truncated or no "
            "safetensors file; fetch it again"
        ) from e


def _download(reference: str) -> Path:
    from huggingface_hub import hf_hub_download, list_repo_files

    parts = reference.removeprefix("hf-hub:").split("/")
    repo = "/".join(parts[:2])
    try:
        if len(parts) > 2:
            return Path(hf_hub_download(repo, "/".join(parts[2:])))
        files = list_repo_files(repo)
        for wanted in ("model.safetensors", "pytorch_model.bin"):
            if wanted in files:
                return Path(hf_hub_download(repo, wanted))
    except Exception as e:
        raise CheckpointError(
            f"{reference} cannot be downloaded ({_first_line(e)}): check the name and the "
            "network, or give a file"
        ) from e
    raise CheckpointError(
        f"{reference} holds no model.safetensors or pytorch_model.bin: name the file, as in "
        f"hf-hub:{repo}/weights.pth"
    )


def _array(value: np.ndarray) -> Tensor:
    if value.dtype.kind == "V" and value.dtype.itemsize == 2:  # bfloat16 as raw bytes
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(value))


def _is_msgpack(path: Path) -> bool:
    """Whether a file begins as a map of msgpack does: Flax's checkpoints have no suffix."""
    with path.open("rb") as file:
        start = file.read(2)
    # A pickle begins with 0x80, which in msgpack is a map of nothing.
    return start[:1] > b"\x80" and (start[0] <= 0x8F or start[0] in (0xDE, 0xDF))


def _unpacked(data: bytes, name: str) -> Any:
    """What Flax packed: nested maps, whose arrays are an extension of (shape, dtype, bytes)."""
    try:
        import msgpack
    except ImportError as e:
        raise CheckpointError(
            f"checkpoint {name} is Flax's msgpack, which needs a package: {extra('flax')}"
        ) from e

    def extension(code: int, packed: bytes) -> Any:
        if code not in (1, 3):  # an array, a scalar
            return None
        shape, dtype, values = msgpack.unpackb(packed, raw=True)
        dtype = dtype.decode()
        kind = np.dtype("V2") if dtype == "bfloat16" else np.dtype(dtype)
        return np.frombuffer(values, kind).reshape(shape)

    try:
        return msgpack.unpackb(data, ext_hook=extension, raw=False, strict_map_key=False)
    except msgpack.UnpackException as e:
        raise ValueError(f"not a whole msgpack: {type(e).__name__}") from e


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The arrays of nested maps, by their names joined with slashes."""
    if isinstance(value, np.ndarray):
        yield path, _array(value)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flattened(inner, f"{path}/{name}" if path else str(name))


def _unwrap(value: Any, name: str) -> State:
    while isinstance(value, Mapping) and not any(isinstance(v, Tensor) for v in value.values()):
        inner = next((value[w] for w in _WRAPPERS if isinstance(value.get(w), Mapping)), None)
        if inner is None:
            break
        value = inner
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{name} holds a {type(value).__name__}: expected named tensors")
    state = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{name} holds no tensors: expected a state dict")
    for prefix in _PREFIXES:
        if all(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


# ---- renaming --------------------------------------------------------------------------


def rename(state: Mapping[str, Tensor], rows: Sequence[Row]) -> State:
    """The state under our names; parts are joined and summands added.

    Raises CheckpointError when parts are missing or two entries take one name.
    """
    compiled = [(_pattern(row[0]), *row[1:]) for row in rows]
    found: State = {}
    parts: dict[str, dict[int, Tensor]] = {}
    counts: dict[str, int] = {}
    sums: dict[str, list[Tensor]] = {}
    for name, value in state.items():
        for target, result in _renamed(name, value, compiled):
            if match := re.fullmatch(r"(.+)\[(\d+)/(\d+)\]", target):
                whole, k, n = match[1], int(match[2]), int(match[3])
                parts.setdefault(whole, {})[k], counts[whole] = result, n
            elif match := re.fullmatch(r"(.+)\[\+(\d*)\]", target):
                sums.setdefault(match[1], []).append(result)
                if match[2]:
                    counts[match[1]] = int(match[2])
            elif target in found:
                raise CheckpointError(f"two entries of the checkpoint are both {target}")
            else:
                found[target] = result
    for whole, pieces in parts.items():
        if len(pieces) != counts[whole]:
            raise CheckpointError(
                f"the checkpoint has {len(pieces)} of the {counts[whole]} parts of {whole}: "
                "it is incomplete"
            )
        found[whole] = torch.cat([pieces[k] for k in sorted(pieces)])
    for whole, terms in sums.items():
        if len(terms) != counts.get(whole, len(terms)):
            raise CheckpointError(
                f"the checkpoint has {len(terms)} of the {counts[whole]} summands of {whole}: "
                "it is incomplete"
            )
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        found[whole] = total
    return found


def _renamed(name: str, value: Tensor, rows: Sequence[Row]) -> list[tuple[str, Tensor]]:
    """What one entry becomes: nothing, one entry, or several where a target is a tuple."""
    for position, (pattern, target, *function) in enumerate(rows):
        match = pattern.search(name)
        if match is None:
            continue
        if target is None:
            return []
        result = function[0](value) if function else value
        targets, values = (target, result) if isinstance(target, tuple) else ((target,), (result,))
        return [
            entry
            for new, part in zip(targets, values, strict=True)
            for entry in _renamed(
                name[: match.start()] + _fill(new, match.groupdict()) + name[match.end() :],
                part,
                rows[position + 1 :],
            )
        ]
    return [(name, value)]


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern:
    body = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(text))
    return re.compile(body if text.startswith(".") else "^" + body)


def _fill(target: str, numbers: Mapping[str, str]) -> str:
    def number(match: re.Match) -> str:
        return str(int(numbers[match[1]]) + int(match[2] or 0))

    return re.sub(r"\{(\w+?)([+-]\d+)?\}", number, target)


# ---- loading ---------------------------------------------------------------------------


class Mismatch(NamedTuple):
    """How a state differs from what a model expects; all empty when it fits."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __bool__(self) -> bool:
        return any(self)

    @property
    def size(self) -> int:
        return sum(map(len, self))

    def describe(self) -> str:
        """One line: counts and the first names of each kind."""
        return "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in zip(self._fields, map(list, map(dict.fromkeys, self)), strict=True)
            if names
        )


def compare(state: Mapping[str, Tensor], model: nn.Module) -> Mismatch:
    """What a renamed state lacks, has too much of, or has in another shape.

    A BatchNorm's batch counter may be absent: it plays no part in what a model computes.
    """
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    missing = [k for k in expected if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in expected]
    misshaped = [
        f"{k} {tuple(state[k].shape)} for {shape}"
        for k, shape in expected.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    return Mismatch(missing, unexpected, misshaped)


def assign(model: nn.Module, state: Mapping[str, Tensor], *, dtype: torch.dtype) -> None:
    """Give a model, also one on meta, every tensor of `state`; CheckpointError unless it fits.

    Floating-point entries become `dtype`. Tensors are copied, never shared with `state`.
    """
    if mismatch := compare(state, model):
        raise CheckpointError(f"the checkpoint does not fit the model: {mismatch.describe()}")
    full = {
        k: v.detach().to(dtype if v.is_floating_point() else v.dtype, copy=True).contiguous()
        for k, v in state.items()
    }
    for name, value in model.state_dict().items():
        if name not in full:
            full[name] = torch.zeros(value.shape, dtype=value.dtype)
    trainable = {n: p.requires_grad for n, p in model.named_parameters()}
    model.load_state_dict(full, strict=True, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])


def metadata(source: Any) -> dict[str, Any]:
    """What `save` wrote beside the weights of a file; empty for all other sources."""
    if isinstance(source, Mapping) or Path(source).suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(source), "pt") as file:
            return json.loads((file.metadata() or {}).get("vitrail", "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError):
        return {}  # `read` says what is wrong with such a file


def save(path: str | os.PathLike, state: Mapping[str, Tensor], *, metadata: dict) -> None:
    """Write `state` as safetensors, whole or not at all; `metadata` is stored as JSON."""
    from safetensors.torch import save_file

    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        save_file(tensors, temporary, metadata={"vitrail": json.dumps(metadata)})
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
