"""Other libraries as oracles, imported when a test first asks them: collecting takes less time."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Peer:
    """A library by its name, whose public parts are those of the module."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, part: str) -> Any:
        # pytest asks every object of a test file whether it is a test or a mark.
        if part.startswith(("_", "pytest")):
            raise AttributeError(part)
        return getattr(import_module(self.name), part)


timm = Peer("timm")
torchvision = Peer("torchvision")
transformers = Peer("transformers")
