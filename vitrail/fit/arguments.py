"""What a user asks of a fit, complete."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from vitrail.fit.budget import Budget
from vitrail.recipes.recipe import Data


@dataclass(frozen=True)
class Arguments:
    """What the user asked for, complete: it is kept in the run folder for `--resume`."""

    data: str
    latency_s: float | None = None
    macs: int | None = None
    params: int | None = None
    time_s: float = 600.0
    device: str = "auto"
    threads: int = 1
    seed: int = 0
    pretrained: str | None = None
    storage: str | None = None
    group_by: str | None = None
    devices: int = 1
    command: str = ""

    @property
    def budget(self) -> Budget:
        """The limits of the model."""
        return Budget(self.latency_s, self.macs, self.params, self.threads, self.device)

    @property
    def source(self) -> Data:
        """The data and how they are divided."""
        return Data(self.data, group_by=self.group_by, seed=self.seed)

    def again(self, run: Path) -> str:
        """The command that goes on with this fit in the folder `run`."""
        return f"vitrail fit {shlex.quote(self.data)} --resume --out {shlex.quote(str(run))}"
