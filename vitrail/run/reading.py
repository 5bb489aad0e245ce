"""Reading the data: gate and split, and the workshop that sees two of the three parts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from vitrail.data.gate import Inspection, inspect
from vitrail.data.split import divide, require_groups
from vitrail.data.told import told
from vitrail.engines import ENGINES, rivals
from vitrail.recipes.recipe import Data
from vitrail.run.budget import Budget
from vitrail.run.pictures import Pictures
from vitrail.run.view import View
from vitrail.run.workshop import Workshop
from vitrail.tasks import Classification, Tasks
from vitrail.training.device import check_device, open_fabric


@dataclass(frozen=True)
class Hardware:
    """Where to compute: the device and how many of it train together."""

    device: str = "auto"
    devices: int = 1


@dataclass(frozen=True, eq=False)
class Read:
    """The data, inspected and divided, and who trains on it; `seconds` is what it took."""

    inspection: Inspection
    workshop: Workshop
    seconds: float

    @property
    def digest(self) -> str:
        """Return which images are learned from and judged by."""
        split = self.workshop.split
        return f"{split.train.digest} {split.val.digest} {split.test.digest}"


def pictured(budget: Budget, data: Read, size: tuple[int, int] | None = None) -> Budget:
    """Return the budget for pictures of `size` (height, width), by default the data's median.

    Raises ConfigError like `engines.rivals`.
    """
    inside = rivals(budget.engine) == ENGINES[:1]
    source = data.inspection.source
    if source.kind != "images":  # which come at the model's own size
        return budget
    called = "picture" if source.wanted is None else "spectrogram"
    pictures = Pictures(size or data.inspection.size, budget.threads, inside, called)
    return replace(budget, pictures=pictures)


def read(data: Data, hardware: Hardware, view: View, task: Tasks | None = None) -> Read:
    """Inspect and divide the images, with a progress bar on a terminal.

    Raises ConfigError for a device that is not there, before any image is read; DataError.
    """
    began = time.monotonic()
    task = task or Classification()
    shown = view.console.is_terminal
    check_device(hardware.device)  # a source of masks reads them all
    source = task.source(data.spec, progress=shown)
    task.check(source)
    require_groups(source, data.group_by)
    view.phase(f"reading the {source.nouns}")
    open_fabric(hardware.device)  # takes seconds to import, so a wrong path is told before
    inspection = inspect(source, progress=shown, threshold=data.threshold)
    split = divide(
        inspection, group_by=data.group_by, val=data.val, test=data.test, seed=data.seed,
        duplicates=data.duplicates,
    )  # fmt: skip
    for line in told(inspection, split.findings):
        view.say(line)
    workshop = Workshop(split, device=hardware.device, devices=hardware.devices, say=view.say)
    return Read(inspection, workshop, time.monotonic() - began)
