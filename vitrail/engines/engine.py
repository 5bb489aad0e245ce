"""The interface of an engine: run a file, make its own from the ONNX file, quantise to int8."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from importlib.metadata import version
from pathlib import Path

import numpy as np

from vitrail.data.labels import Labels

# uint8 (B, H, W, C) at the model's size to probabilities and logits, each (B, classes)
Answer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Quantiser(ABC):
    """A maker of int8 files of one float model that was calibrated before.

    `units` are the nodes with weights or products in the order of the graph, each with the names
    of the nodes that go to float with it.
    """

    units: tuple[tuple[str, ...], ...]

    @abstractmethod
    def write(self, path: Path, keep: Collection[str]) -> None:
        """Write the model in int8, but for the nodes named in `keep`."""


class Engine(ABC):
    """An engine: its name, and the names of its files in a run folder."""

    name: str
    title: str
    file: str
    int8_file: str

    @abstractmethod
    def open(
        self, path: Path, labels: Labels, *, threads: int | None = None, single: bool = False
    ) -> Answer:
        """Open a file to answer with; `single` promises one image at a time, which may be faster.

        Raises RunError when it is damaged.
        """

    @abstractmethod
    def convert(self, onnx: Path, labels: Labels, path: Path) -> None:
        """Write the engine's own float file from the run's ONNX file."""

    @abstractmethod
    def quantiser(self, path: Path, images: np.ndarray, scratch: Path) -> Quantiser:
        """Return a quantiser of the float file at `path`, calibrated on `images`.

        `scratch` is a folder that it may use.
        """

    def resizes(self, path: Path) -> bool:
        """Return whether the file at `path` takes images of any size and resizes them itself."""
        return False

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return all files that the one at `path` consists of, those that others refer to first."""
        return (path,)

    @property
    def version(self) -> str:
        return version(self.name)
