"""Where weights lie: a file, a folder as libraries save it, a repository of the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from vitrail.checkpoint import hub
from vitrail.checkpoint.door import door
from vitrail.checkpoint.stored import Unfit
from vitrail.errors import CheckpointError

# Files of weights in a folder, by the names that libraries give them; indices of shards first.
FOLDER = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json",
    "pytorch_model.bin", "weights.safetensors", "flax_model.msgpack",
)  # fmt: skip


def located(source: str | os.PathLike) -> Path:
    """Return the file of weights that a path or a Hub reference means. Raises CheckpointError."""
    name = os.fspath(source)
    if name.startswith(hub.PREFIX):
        return hub.fetched(name, FOLDER)
    if "://" in name:
        raise CheckpointError(
            f"{name} is an address: download the file and give its path, or give hf-hub:owner/name"
        )
    path = Path(name)
    with door(name):
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
    """Return whether a folder is a model as libraries save it, and not a run of vitrail's."""
    names = (name for name in FOLDER if name != "weights.safetensors")
    return any((folder / name).is_file() for name in names)
