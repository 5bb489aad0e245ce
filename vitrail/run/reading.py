"""Reading the data: gate and split, and the trainer that sees two of the three parts."""

from __future__ import annotations

import time
from dataclasses import dataclass

from vitrail.data.gate import Inspection, inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.fit.arguments import Arguments
from vitrail.recipes.recipe import Data
from vitrail.run.view import View
from vitrail.run.workshop import Trainer


@dataclass(frozen=True, eq=False)
class Read:
    """The data, inspected and divided, and who trains on it; `seconds` is what it took."""

    inspection: Inspection
    trainer: Trainer
    seconds: float

    @property
    def digest(self) -> str:
        """Which images are learned from and judged by."""
        split = self.trainer.split
        return f"{split.train.digest} {split.val.digest} {split.test.digest}"


def read(data: Data, arguments: Arguments, view: View) -> Read:
    """Inspect and divide the images, with a progress bar on a terminal. Raises DataError."""
    began = time.monotonic()
    view.phase("reading the images")
    inspection = inspect(open_source(data.spec), progress=view.console.is_terminal)
    split = divide(inspection, group_by=data.group_by, val=data.val, test=data.test, seed=data.seed)
    trainer = Trainer(split, device=arguments.device, devices=arguments.devices)
    return Read(inspection, trainer, time.monotonic() - began)
