"""Where weights lie: a file, a folder as libraries save it, a repository of the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

from vitrail.checkpoint.door import door, first_line
from vitrail.checkpoint.stored import Unfit
from vitrail.errors import CheckpointError

# Files of weights in a folder, by the names that libraries give them; indices of shards first.
FOLDER = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json",
    "pytorch_model.bin", "weights.safetensors", "flax_model.msgpack",
)  # fmt: skip


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
    """Whether a folder is a model as libraries save it, and not a run of vitrail's."""
    names = (name for name in FOLDER if name != "weights.safetensors")
    return any((folder / name).is_file() for name in names)


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
