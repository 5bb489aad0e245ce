"""Writing weights, with a digest that `read` compares."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail import files
from vitrail.checkpoint.seal import KEY, seal


def save(
    path: str | os.PathLike, state: Mapping[str, Tensor], *, metadata: Mapping[str, Any]
) -> None:
    """Write `state` as safetensors, whole or not at all; `metadata` is stored as JSON.

    The file has a digest of its content and the permissions of the umask. Raises OSError and
    safetensors' error of a full disk.
    """
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    text = json.dumps(metadata)
    with files.replacing(Path(path)) as part:
        save_file(tensors, part, metadata={"vitrail": text, KEY: seal(tensors, text)})
