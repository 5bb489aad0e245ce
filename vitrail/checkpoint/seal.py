"""The seal of a file of weights: a digest of its tensors, written into it, that shows damage.

What ties the files of a run to each other is `vitrail.digests`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

KEY = "sha256"


def seal(state: Mapping[str, Tensor], text: str) -> str:
    """Return the sha256 of the names, types, shapes and bytes of contiguous tensors, and of `text`,
    in hex."""
    found = hashlib.sha256(text.encode())
    for name in sorted(state):
        value = state[name]
        found.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        if value.numel():
            found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def check(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raise ValueError unless the tensors are those of the seal, where the metadata has one."""
    if KEY in metadata and seal(state, metadata.get("vitrail", "")) != metadata[KEY]:
        raise ValueError("its tensors are not those that vitrail wrote, by their digest")
