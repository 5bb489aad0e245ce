"""timm, torchvision and transformers, imported where a test first asks for something of theirs:
to collect the tests takes a second, and them a dozen."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Peer:
    """A package by its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks everything whether it is a fixture
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)


timm, torchvision, transformers = map(Peer, ("timm", "torchvision", "transformers"))
