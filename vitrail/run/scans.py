"""Reading scans: gate and parts, and the workshop that trains on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vitrail.data.lidar.folder import ScanSource
from vitrail.data.lidar.gate import Inspected, inspect_scans
from vitrail.data.lidar.projection import Projection
from vitrail.data.lidar.scans import Scans, statistics
from vitrail.data.lidar.split import divide_scans
from vitrail.data.split import Part, Split
from vitrail.recipes.recipe import Data
from vitrail.run.reading import Hardware
from vitrail.run.view import View
from vitrail.run.workshop import Workshop
from vitrail.tasks import Lidar
from vitrail.tasks.lidar import FromData
from vitrail.training.device import open_fabric
from vitrail.units import counted


class ScanWorkshop(Workshop):
    """A workshop whose pixels are range images of one projection, and whose counts are points."""

    def __init__(
        self,
        split: Split,
        projection: Projection,
        points: Sequence[int],
        *,
        device: str = "auto",
        devices: int = 1,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(split, device=device, devices=devices, say=say)
        self.projection = projection
        self.builder.context = replace(self.builder.context, counts=tuple(points))

    def data(
        self, base: Data, image: tuple[int, int], channels: int, pretrained: str | None = None
    ) -> Data:
        """Return `base` at a size of crops, with the statistics of the training scans."""
        if channels not in self._statistics:
            scans: Any = self.pixels("train", image, channels)
            self._statistics[channels] = statistics(scans)
        mean, std = self._statistics[channels]
        return replace(base, image=image, channels=channels, mean=mean, std=std)

    def opened(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, part: Part, image: tuple[int, int], channels: int, *, progress: bool = False
    ) -> Scans:
        """Return the scans of a part."""
        return Scans(part, self.projection, image)


@dataclass(frozen=True, eq=False)
class ReadScans:
    """Scans, inspected and divided, and who trains on them; `seconds` is what it took."""

    inspected: Inspected
    workshop: ScanWorkshop
    seconds: float

    @property
    def digest(self) -> str:
        """Return which scans are learned from and judged by."""
        split = self.workshop.split
        return f"{split.train.digest} {split.val.digest} {split.test.digest}"


def read_scans(data: Data, hardware: Hardware, view: View, task: Lidar) -> ReadScans:
    """Inspect and divide the scans, with a progress bar on a terminal.

    Raises ConfigError for a device that is not there, and DataError.
    """
    began = time.monotonic()
    view.phase("reading the scans")
    source = task.source(data.spec)
    task.check(source)
    assert isinstance(source, ScanSource)
    open_fabric(hardware.device)
    inspected = inspect_scans(source, progress=view.console.is_terminal)
    split = divide_scans(inspected, val=data.val, test=data.test, seed=data.seed)
    for line in _told(inspected, split):
        view.say(line)
    projection = inspected.projection if isinstance(task.projection, FromData) else task.projection
    learned = set(split.train.keys)
    points = sum(
        one.counts
        for row, one in zip(inspected.rows, inspected.seen, strict=True)
        if source.items[row].key in learned
    )
    workshop = ScanWorkshop(
        split, projection, [int(n) for n in points],  # pyright: ignore[reportGeneralTypeIssues]
        device=hardware.device, devices=hardware.devices, say=view.say,
    )  # fmt: skip
    return ReadScans(inspected, workshop, time.monotonic() - began)


def _told(inspected: Inspected, split: Split) -> list[str]:
    scans = counted(len(inspected), "scan")
    parts = f"{len(split.train)} to learn from, {len(split.val)} to choose by, {len(split.test)}"
    lines = [f"{scans} of {inspected.source.origin}: {parts} held back"]
    return lines + [f.message for f in (*inspected.findings, *split.findings)]
