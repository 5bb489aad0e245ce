"""The training loop: one for all models, which may be stopped at any moment and goes on exactly.

A batch is a function of (seed, epoch, number) and the random state of a step one of (seed,
step, rank), so that a snapshot needs no random states, and a run that was killed and resumed
ends with the same bits as one that never was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vitrail.errors import ConfigError
from vitrail.training.average import Average
from vitrail.training.batch import Batches
from vitrail.training.device import open_fabric
from vitrail.training.faults import agreed, first_fault
from vitrail.training.interrupt import Interrupted, Stopping
from vitrail.training.journal import Recorder
from vitrail.training.learner import Learner
from vitrail.training.machine import Feeds, Machine, Row
from vitrail.training.objective import Objective, Step
from vitrail.training.plan import Place, Plan
from vitrail.training.state import State
from vitrail.training.steps import Steps

__all__ = ["Interrupted", "Outcome", "Place", "Plan", "Steps", "train"]


@dataclass(frozen=True)
class Outcome:
    """Where a training stands: steps done, the last loss, and what this call took.

    `ema_model` is the average of the weights in eval mode, None without one. `samples_per_s`
    leaves out the first step, which warms up.
    """

    step: int
    loss: float
    seconds: float
    samples_per_s: float
    model: nn.Module
    ema_model: nn.Module | None
    objective: Objective

    @property
    def best(self) -> nn.Module:
        """Return the model to judge and keep: the average where there is one,
        or what an objective keeps.
        """
        return self.objective.kept(self.model) if self.ema_model is None else self.ema_model


def train(
    learner: Learner, batches: Batches, plan: Plan, place: Place, second: Batches | None = None
) -> Outcome:
    """Train a learner, in place, up to step `place.until`.

    `batches` gives micro-batches of `steps.batch / steps.accumulate` images, `second` those of
    the objective's second optimizer where it declares one.

    Raises Interrupted after SIGTERM or Ctrl-C, with everything saved; RunError for a loss
    that is not finite twice, a full disk, or snapshots in the way; CheckpointError for
    snapshots of another training; ConfigError for settings that do not go together.
    """
    training = _Training(learner, batches, plan, place, second)
    with Stopping() as stopping:
        while training.done < training.until:
            training.step()
            if training.is_due():
                training.settle(stopping.wish)
    return training.outcome()


class _Training:
    """A training between two looks at its losses: what is done, and what was not looked at yet."""

    def __init__(
        self, learner: Learner, batches: Batches, plan: Plan, place: Place, second: Batches | None
    ) -> None:
        self.learner, self.batches, self.second = learner, batches, second
        self.plan, self.place, self.steps = plan, place, plan.steps
        steps = plan.steps
        self.fabric = fabric = open_fabric(place.device, steps.precision)
        self.started = time.monotonic()
        self.until = steps.total if place.until is None else min(place.until, steps.total)
        _check(learner, steps, batches, second, fabric.world_size)
        fabric.to_device(learner.train())
        self.machine = Machine(learner, plan, fabric)
        self.average = None if steps.ema is None else Average(learner.model, steps.ema)
        modules: dict[str, nn.Module] = {"model": learner.model, "objective": learner.objective}
        self.state = State(
            modules | ({"ema": self.average.model} if self.average else {}),
            self.machine.named,
            plan.settings(batches),
            folder=Path(place.folder) / "checkpoint",
            fabric=fabric,
        )
        self.done, self.loss = self.state.start(place.resume)
        told = (place.journal, place.on_step) if fabric.global_rank == 0 else (None, None)
        self.recorder = Recorder(*told, steps)
        self.recorder.rewind(self.done)
        # On an accelerator a look at the loss waits for the device, so not every step takes one;
        # on the CPU torch.manual_seed would take 0.1 ms for the accelerators that are not used.
        on_cpu = fabric.device.type == "cpu"
        self.look = 1 if on_cpu else 10
        self.seed = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
        self.feeds: Feeds | None = None
        self.rows: list[Row] = []
        self.rates: list[float] = []
        self.saved = time.monotonic()

    def step(self) -> None:
        """Make one step, whose losses stay where they are."""
        steps, learner = self.steps, self.learner
        if self.feeds is None:
            streams, left = (self.batches, self.second), range(self.done, self.until)
            parts, workers = steps.accumulate, self.place.workers
            self.feeds = Feeds(streams, learner.objective.two, left, parts, workers, self.fabric)
        epoch = self.done * steps.accumulate / self.batches.steps_per_epoch
        step = Step(self.done, steps.total, epoch, self.batches.seed)
        for method in self.plan.methods:
            method.before_step(learner.model, step)
        self.rates.append(self.machine.adjust(self.done, self.state.caution))
        self.seed(_mixed(self.batches.seed, self.done, self.fabric.global_rank))
        self.rows.append(self.machine.step(self.feeds, step))
        if self.average and (self.done + 1) % steps.ema_every == 0:
            self.average.update(self.done // steps.ema_every)
        learner.objective.after_step(learner.model, step)
        self.done += 1

    def is_due(self) -> bool:
        """Return whether it is time to look at losses and signals."""
        return self.done % self.look == 0 or self.done >= self.until

    def settle(self, wish: str | None) -> None:
        """Look at the steps since the last look: go back, or note them, save and stop.

        `wish` says by what this process is asked to stop. Raises Interrupted.
        """
        steps, parts = self.steps, self.steps.accumulate
        seen, stop = agreed(self.rows, wish is not None, self.fabric)
        if fault := first_fault(seen, self.done - len(seen), parts, self.batches):
            self.done, self.loss = self.state.go_back(str(fault))
            self.recorder.rewind(self.done, fault=str(fault), samples=fault.samples)
            self.feeds, self.rows, self.rates = None, [], []
            return
        epochs = parts / self.batches.steps_per_epoch
        for number, (row, lr) in enumerate(
            zip(seen, self.rates, strict=True), self.done - len(seen)
        ):
            self.loss = sum(row.losses) / parts
            self.recorder.step(number + 1, self.loss, lr, epochs, row.terms)
        self.rows, self.rates = [], []
        if stop or self.done == self.until or time.monotonic() - self.saved > steps.save_s:
            self.state.save(self.done, self.loss)
            self.saved = time.monotonic()
        if stop:
            raise Interrupted(
                f"stopped by {wish or 'a signal to another process'} after step {self.done} of "
                f"{steps.total}; all is saved in {self.place.folder}: go on with --resume"
            )

    def outcome(self) -> Outcome:
        """Return where the training stands."""
        return Outcome(
            self.done, self.loss, time.monotonic() - self.started, self.recorder.samples_per_s,
            self.learner.model, self.average.model if self.average else None,
            self.learner.objective,
        )  # fmt: skip


def _check(
    learner: Learner, steps: Steps, batches: Batches, second: Batches | None, world: int
) -> None:
    if batches.batch * steps.accumulate != steps.batch:
        raise ConfigError(
            f"batches of {batches.batch} images, {steps.accumulate} in a step, are not the "
            f"{steps.batch} of steps.batch: make batches of {steps.batch // steps.accumulate}"
        )
    if batches.batch % world:
        raise ConfigError(
            f"batches of {batches.batch} images do not divide among {world} processes: give a "
            "batch that is a multiple of accumulate times the processes"
        )
    if batches.steps_per_epoch < 1:
        raise ConfigError(
            f"there is less to train on than one batch of {batches.batch}: give a smaller "
            "steps.batch"
        )
    if learner.objective.two is not None and second is None:
        raise ConfigError(
            f"{type(learner.objective).__name__} has a second optimizer, which learns from images "
            "of its own: give a second stream of batches"
        )


def _mixed(*numbers: int) -> int:
    """Mix several numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
