"""How to train, and where: two values instead of a dozen arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from vitrail.config import to_json
from vitrail.training.batch import Batches
from vitrail.training.journal import Journal
from vitrail.training.objective import Step
from vitrail.training.optimizer import Optimizer
from vitrail.training.schedule import Schedules
from vitrail.training.steps import Steps

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OnStep = Callable[[int, float, float, float], None]


class Prepares(Protocol):
    """Has a say before every step, as a method that draws a patch size does."""

    def before_step(self, model: nn.Module, step: Step) -> None: ...


@dataclass(frozen=True)
class Plan:
    """What decides over the bits of a training, beside its batches.

    `identity` is further JSON that a resumed training must share: the model's config, the data,
    the augmentation, whatever its maker knows.
    """

    optimizer: Optimizer
    schedule: Schedules
    steps: Steps
    methods: Sequence[Prepares] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, batches: Batches) -> dict[str, Any]:
        """Return, as JSON, all that a snapshot and the training that goes on with it must share.

        Not the schedule and the total: a short training may go on as a long one.
        """
        names = ("batch", "accumulate", "clip", "units", "ema", "precision")
        # Named only where it is used: what was begun before it was known goes on.
        names += ("ema_every",) if self.steps.ema_every > 1 else ()
        kind = type(self.optimizer).__name__.lower()
        fields = {
            k: v for k, v in to_json(self.optimizer).items() if (k, v) != ("head_decay", None)
        }
        return {name: getattr(self.steps, name) for name in names} | {
            "optimizer": {"kind": kind, **fields},
            "seed": batches.seed,
            **self.identity,
        }


@dataclass(frozen=True)
class Place:
    """Where a training runs and writes.

    Snapshots go to `folder/checkpoint`; with `resume` the last one is the start. `until` is the
    step to stop after (None: the plan's last), `workers` threads prepare batches ahead.
    `on_step(step, loss, lr, samples_per_s)` hears of every step in the first process.
    """

    folder: Path
    device: str | Fabric = "auto"
    journal: Journal | None = None
    resume: bool = False
    until: int | None = None
    workers: int = 0
    on_step: OnStep | None = None
