"""The learning rate over the steps: a warm-up, then a cosine, a line, a reciprocal square root or a
few steps down.

Each factor before step `hold` does not depend on the end, so that a training that was planned to
be short may go on as a long one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vitrail.errors import ConfigError


@dataclass(frozen=True)
class Cosine:
    """Linear over `warmup` steps, constant until step `hold`, then a cosine to `floor`.

    `floor` is a fraction of the full rate, and `start` the one at which the warm-up begins; the
    last `rest` steps stay at the floor. `whole` draws the cosine over all steps, so that the
    warm-up hides its beginning, as timm does and with it DeiT and Swin.
    """

    warmup: int = 0
    hold: int = 0
    floor: float = 0.01
    start: float = 0.0
    rest: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        _check_steps(self, "warmup", "hold", "rest")
        _check_fractions(self, "floor", "start")
        if self.whole and self.hold:
            raise ConfigError(
                f"a cosine over all steps falls from the first, and hold {self.hold} keeps it from "
                "falling: give whole=false or hold=0"
            )

    def factor(self, step: int, total: int) -> float:
        """Return what the rate of `step` (from 0) of `total` is multiplied by, in [0, 1]."""
        return _falling(self, step, total, lambda done: (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True)
class Linear:
    """Linear over `warmup` steps, constant until step `hold`, then a line to `floor` at the end.

    MLP-Mixer's and ViT's schedule, Tolstikhin et al., arXiv 2105.01601. The fields are those of
    Cosine.
    """

    warmup: int = 0
    hold: int = 0
    floor: float = 0.01
    start: float = 0.0
    rest: int = 0
    whole: bool = False

    __post_init__ = Cosine.__post_init__

    def factor(self, step: int, total: int) -> float:
        """Return what the rate of `step` (from 0) of `total` is multiplied by, in [0, 1]."""
        return _falling(self, step, total, lambda done: 1 - done)


@dataclass(frozen=True)
class Rsqrt:
    """Linear over `warmup` steps, then 1 / sqrt(1 + steps / `timescale`), to zero at the end.

    Scaling ViT, Zhai et al., arXiv 2106.04560: a training that has no end, from any step of which
    the last `cooldown` steps, a line down to zero, make a finished model. `shift` counts steps that
    the root has behind it when the warm-up ends, to go on smoothly with another batch size; where
    `hold` is later, the cooldown is shorter.

        vitrail train --set schedule=rsqrt --set steps.total=3000 ... --out RUN
        vitrail train --resume --set steps.total=3500 --set schedule.cooldown=500 --out RUN
    """

    warmup: int = 0
    hold: int = 0
    timescale: int = 10_000
    cooldown: int = 0
    shift: int = 0

    def __post_init__(self) -> None:
        _check_steps(self, "warmup", "hold", "cooldown", "shift")
        if self.timescale < 1:
            raise ConfigError(f"timescale {self.timescale} is below 1: 10000 steps are usual")

    def factor(self, step: int, total: int) -> float:
        """Return what the rate of `step` (from 0) of `total` is multiplied by, in [0, 1]."""
        if step < self.warmup:
            return (step + 1) / self.warmup / math.sqrt(1 + self.shift / self.timescale)
        factor = 1 / math.sqrt(1 + (step + self.shift - self.warmup) / self.timescale)
        cooling = max(self.warmup, self.hold, total - self.cooldown)
        if step < cooling:
            return factor
        return factor * max(0.0, (total - step) / (total - cooling)) if total > cooling else 0.0


@dataclass(frozen=True)
class Staircase:
    """Linear over `warmup` steps from a fraction `start`, then constant, and `by` times as large
    from each of the `drops`, shares of all steps.

    What detectors learn by, Lin et al., ICCV 2017, arXiv 1708.02002: a tenth after two thirds of
    the steps, and again after eleven twelfths.
    """

    warmup: int = 0
    start: float = 0.0
    drops: tuple[float, ...] = (2 / 3, 11 / 12)
    by: float = 0.1

    def __post_init__(self) -> None:
        _check_steps(self, "warmup")
        _check_fractions(self, "start", "by")
        if list(self.drops) != sorted(self.drops) or not all(0 < one < 1 for one in self.drops):
            raise ConfigError(
                f"drops {self.drops} do not rise from 0 to 1: give shares of the steps between "
                "0 and 1, such as 0.667,0.917"
            )

    def factor(self, step: int, total: int) -> float:
        """Return what the rate of `step` (from 0) of `total` is multiplied by, in [0, 1]."""
        if step < self.warmup:
            return self.start + (1 - self.start) * ((step + 1) / self.warmup)
        return self.by ** sum(step >= round(one * total) for one in self.drops)


Schedules = Cosine | Linear | Rsqrt | Staircase
# The usual one.
Schedule = Cosine


def _falling(
    schedule: Cosine | Linear, step: int, total: int, shape: Callable[[float], float]
) -> float:
    """Warm up, hold, and fall from 1 to the floor as `shape` does from 1 at 0 to 0 at 1."""
    if step < schedule.warmup:
        return schedule.start + (1 - schedule.start) * ((step + 1) / schedule.warmup)
    begin = max(schedule.warmup, schedule.hold)
    if step < begin:
        return 1.0
    end = total - schedule.rest
    if step >= end:
        return schedule.floor
    begin = 0 if schedule.whole else begin
    done = (step - begin) / (end - begin)
    return schedule.floor + (1 - schedule.floor) * shape(done)


def _check_steps(schedule: Any, *names: str) -> None:
    if any(getattr(schedule, name) < 0 for name in names):
        *first, last = [f"{name} {getattr(schedule, name)}" for name in names]
        told = f"{', '.join(first)} and {last}" if first else last
        raise ConfigError(f"a schedule with {told} steps does not exist: give numbers from 0")


def _check_fractions(schedule: Any, *names: str) -> None:
    for name in names:
        value = getattr(schedule, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} {value} is not between 0 and 1: give a fraction")
