"""How long and in what portions to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from vitrail.errors import ConfigError
from vitrail.training.device import Precision


@dataclass(frozen=True)
class Steps:
    """How many steps of what size.

    `batch` images make a step, over all processes and `accumulate` micro-batches. `clip` is
    the largest norm of the gradient, `units` the largest of each output's gradient as a share of
    the norm of its weights (adaptive clipping), `ema` the decay of the average of the weights,
    which follows every `ema_every` steps; None for no clipping, no average. `save_s` are the
    seconds between two snapshots. `lean` computes cheap activations again instead of keeping
    them: a quarter to a third less memory; None is where they would take more than half of the
    memory that is free.
    """

    total: int
    batch: int
    accumulate: int = 1
    clip: float | None = 1.0
    ema: float | None = 0.999
    precision: Precision = "32-true"
    save_s: float = 30.0
    lean: bool | None = None
    units: float | None = None
    ema_every: int = 1

    def __post_init__(self) -> None:
        if self.ema_every < 1:
            raise ConfigError(f"ema_every {self.ema_every} is below 1: 1 is every step")
        if self.total < 1 or self.batch < 1 or self.accumulate < 1:
            raise ConfigError(
                f"total {self.total}, batch {self.batch} and accumulate {self.accumulate} must "
                "each be 1 or more"
            )
        if self.batch % self.accumulate:
            raise ConfigError(
                f"a batch of {self.batch} does not divide into {self.accumulate} parts: give a "
                "batch that is a multiple of accumulate"
            )
        known = get_args(Precision)
        if self.precision not in known:
            raise ConfigError(
                f"precision {self.precision!r} is unknown: give one of {', '.join(known)}"
            )
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip {self.clip} is not above 0: give a norm, or none")
        if self.units is not None and not self.units > 0:
            raise ConfigError(f"units {self.units} is not above 0: give a share as 0.01, or none")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ConfigError(f"ema {self.ema} is not in [0, 1): give a decay, or none")
