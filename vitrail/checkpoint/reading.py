"""Reading files of weights through one door: whatever is wrong with a file, CheckpointError says
it, with the file's name, and nothing in the file is ever run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.checkpoint import arrays, torchfile
from vitrail.checkpoint.digest import check
from vitrail.checkpoint.pickles import Unsafe
from vitrail.checkpoint.stored import Stored, Strange, Unfit
from vitrail.checkpoint.unwrapping import unwrap
from vitrail.errors import CheckpointError

State = dict[str, Tensor]
KNOWN = ".safetensors, .pth, .pt, .bin, .ckpt, .npz and .msgpack"
# Files of weights in a folder, by the names that libraries give them; indices of shards first.
FOLDER = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json",
    "pytorch_model.bin", "weights.safetensors", "flax_model.msgpack",
)  # fmt: skip


_MAPPING = "the given mapping"


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
        with _door(_MAPPING):
            unwrapped = unwrap(source)
            return Contents(_values(unwrapped.state), unwrapped.about)
    name = os.fspath(source)
    path = located(source)
    with _door(name):
        if path.name.endswith(".index.json"):
            return _sharded(path)
        value, written = _opened(path, name)
        unwrapped = unwrap(value)
        return Contents(_values(unwrapped.state), unwrapped.about, written)


def located(source: str | os.PathLike) -> Path:
    """The file of weights that a path or a Hub reference means. Raises CheckpointError."""
    name = os.fspath(source)
    if name.startswith("hf-hub:"):
        return _download(name)
    if "://" in name:
        raise CheckpointError(
            f"{name} is an address: download the file and give its path, or give hf-hub:owner/name"
        )
    path = Path(name)
    with _door(name):
        if path.is_dir():
            for known in FOLDER:
                if (path / known).is_file():
                    return path / known
            raise Unfit(
                f"is a folder without {FOLDER[1]} or {FOLDER[3]}: give the path of a file of "
                "weights"
            )
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise Unfit(f"{what}: give the path of a file of weights")
    return path


def holds_weights(folder: Path) -> bool:
    """Whether a folder is a model as libraries save it, and not a run of vitrail's."""
    names = (name for name in FOLDER if name != "weights.safetensors")
    return any((folder / name).is_file() for name in names)


@contextmanager
def _door(name: str) -> Iterator[None]:
    """Turn whatever a parser raises into CheckpointError with the file's name and the reason."""
    try:
        yield
    except CheckpointError:
        raise
    except Unsafe as e:
        raise CheckpointError(f"{_said(name)} was refused: {e}") from e
    except Unfit as e:
        raise CheckpointError(f"{_said(name)} {e}") from e
    except Exception as e:
        raise CheckpointError(
            f"{_said(name)} cannot be read ({first_line(e)}): it is damaged, or of an "
            f"unknown format; {KNOWN} are known"
        ) from e


def first_line(error: BaseException) -> str:
    """The beginning of what an error says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _said(name: str) -> str:
    if name == _MAPPING:
        return name
    return f"checkpoint {name if len(name) <= 300 else f'...{name[-297:]}'}"


def _opened(path: Path, name: str) -> tuple[Any, Mapping[str, Any]]:
    """A file's value, and what vitrail wrote as its metadata."""
    with path.open("rb") as file:
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
    """What `save` wrote among a file's metadata; empty where that is not a mapping."""
    try:
        found = json.loads(texts.get("vitrail", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def metadata(source: Any) -> Mapping[str, Any]:
    """What `save` wrote beside the weights of a file; empty for all other sources."""
    if isinstance(source, Mapping) or Path(source).suffix != ".safetensors":
        return {}
    try:
        return written(_texts(Path(source)))
    except Exception:
        return {}  # `read` says what is wrong with such a file


def _values(state: Mapping[str, Any]) -> State:
    """The tensors themselves, those that no model has refused by name."""
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


# ---- shards and the Hub ------------------------------------------------------------------


def _sharded(index: Path) -> Contents:
    """The tensors of all files that an index names; they lie beside it."""
    listed = json.loads(index.read_text("utf-8"))
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


def _download(reference: str) -> Path:
    from huggingface_hub import hf_hub_download, list_repo_files

    parts = reference.removeprefix("hf-hub:").split("/")
    repo = "/".join(parts[:2])

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(repo, file))

    try:
        if len(parts) > 2:
            return fetch("/".join(parts[2:]))
        files = list_repo_files(repo)
        wanted = next((w for w in FOLDER if w in files), None)
        if wanted is not None:
            path = fetch(wanted)
            if wanted.endswith(".index.json"):
                for shard in sorted(set(json.loads(path.read_text())["weight_map"].values())):
                    fetch(shard)
            return path
    except Exception as e:
        raise CheckpointError(
            f"{reference} cannot be downloaded ({first_line(e)}): check the name and the "
            "network, or give a file"
        ) from e
    raise CheckpointError(
        f"{reference} holds no model.safetensors or pytorch_model.bin: name the file, as in "
        f"hf-hub:{repo}/weights.pth"
    )
