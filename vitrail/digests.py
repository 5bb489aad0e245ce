"""Digests of tensors: by which weights, and what was made of them, know each other again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail import files

if TYPE_CHECKING:
    from torch import Tensor

    from vitrail.data.labels import Labels


def of_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the sha256 of named tensors (names, types, shapes, values) after a text, in hex.

    It does not depend on the device, the order or the file that the tensors lie in.
    """
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_model(weights: Mapping[str, Tensor], labels: Labels) -> str:
    """Return the sha256 that ties a model's state dict and its labels to what is made of them."""
    return of_tensors(weights, json.dumps(labels.to_json(), sort_keys=True))


def of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex. Raises OSError."""
    with files.reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
