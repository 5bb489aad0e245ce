"""The learning rate over the steps: linear warm-up, constant, cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitrail.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """Linear over `warmup` steps, constant until step `hold`, then a cosine to `floor` at the end.

    Before `hold` the factor does not depend on the end, so a training that was planned to be
    short may go on as a long one. `floor` is a fraction of the full rate.
    """

    warmup: int = 0
    hold: int = 0
    floor: float = 0.01

    def __post_init__(self) -> None:
        if self.warmup < 0 or self.hold < 0:
            raise ConfigError(
                f"a schedule with warmup {self.warmup} and hold {self.hold} steps does not exist: "
                "give numbers from 0"
            )
        if not 0 <= self.floor <= 1:
            raise ConfigError(f"floor {self.floor} is not between 0 and 1: give a fraction")

    def factor(self, step: int, total: int) -> float:
        """Return what the rate of `step` (from 0) of `total` is multiplied by, in [0, 1]."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        start = max(self.warmup, self.hold)
        if step < start:
            return 1.0
        if step >= total:
            return self.floor
        done = (step - start) / (total - start)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
