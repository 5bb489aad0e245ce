"""What an engine can do: run a file, make its own from the ONNX file, and quantise to int8."""

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
    """Makes int8 files of one float model; calibration happened before.

    `units` are the nodes with weights or products in the order of the graph, each with the names
    of what goes to float with it.
    """

    units: tuple[tuple[str, ...], ...]

    @abstractmethod
    def write(self, path: Path, keep: Collection[str]) -> None:
        """The model in int8 but for the nodes named in `keep`."""


class Engine(ABC):
    """An engine by name, and how its files in a run folder are called."""

    name: str
    title: str
    file: str
    int8_file: str

    @abstractmethod
    def open(
        self, path: Path, labels: Labels, *, threads: int | None = None, single: bool = False
    ) -> Answer:
        """The file, ready to answer; `single` promises one image at a time, which may be faster.

        Raises RunError when it is damaged.
        """

    @abstractmethod
    def convert(self, onnx: Path, labels: Labels, path: Path) -> None:
        """Write the engine's own float file from the run's ONNX file."""

    @abstractmethod
    def quantiser(self, path: Path, images: np.ndarray, scratch: Path) -> Quantiser:
        """Of the float file at `path`, calibrated on `images`; `scratch` is a folder to use."""

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files that one at `path` consists of, what others refer to first."""
        return (path,)

    @property
    def version(self) -> str:
        return version(self.name)
