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
    steps, parts = plan.steps, plan.steps.accumulate
    fabric = open_fabric(place.device, steps.precision)
    started = time.monotonic()
    until = steps.total if place.until is None else min(place.until, steps.total)
    rank, world = fabric.global_rank, fabric.world_size
    _check(learner, steps, batches, second, world)
    fabric.to_device(learner.train())
    machine = Machine(learner, plan, fabric)
    average = None if steps.ema is None else Average(learner.model, steps.ema)
    modules: dict[str, nn.Module] = {"model": learner.model, "objective": learner.objective}
    state = State(
        modules | ({"ema": average.model} if average else {}),
        machine.named,
        plan.settings(batches),
        folder=Path(place.folder) / "checkpoint",
        fabric=fabric,
    )
    done, loss = state.start(place.resume)
    first = rank == 0
    recorder = Recorder(place.journal if first else None, place.on_step if first else None, steps)
    recorder.rewind(done)
    # On an accelerator a look at the loss waits for the device, so not every step takes one;
    # on the CPU torch.manual_seed would take 0.1 ms for the accelerators that are not used.
    on_cpu = fabric.device.type == "cpu"
    look, seed = (1, torch.default_generator.manual_seed) if on_cpu else (10, torch.manual_seed)
    feeds: Feeds | None = None
    rows: list[Row] = []
    rates: list[float] = []
    saved = time.monotonic()

    with Stopping() as stopping:
        while done < until:
            if feeds is None:
                feeds = Feeds(batches, second, learner, done, until, parts, place.workers, fabric)
            epoch = done * parts / batches.steps_per_epoch
            step = Step(done, steps.total, epoch, batches.seed)
            for method in plan.methods:
                method.before_step(learner.model, step)
            rates.append(machine.adjust(done, state.caution))
            seed(_mixed(batches.seed, done, rank))
            rows.append(machine.step(feeds, step))
            if average and (done + 1) % steps.ema_every == 0:
                average.update(done // steps.ema_every)
            learner.objective.after_step(learner.model, step)
            done += 1
            if done % look and done < until:
                continue

            seen, stop = agreed(rows, stopping.wish is not None, fabric)
            if fault := first_fault(seen, done - len(seen), parts, batches):
                done, loss = state.go_back(str(fault))
                recorder.rewind(done, fault=str(fault), samples=fault.samples)
                feeds, rows, rates = None, [], []
                continue
            for number, (row, lr) in enumerate(zip(seen, rates, strict=True), done - len(seen)):
                loss = sum(row.losses) / parts
                epochs = parts / batches.steps_per_epoch
                recorder.step(number + 1, loss, lr, epochs, row.terms)
            rows, rates = [], []
            if stop or done == until or time.monotonic() - saved > steps.save_s:
                state.save(done, loss)
                saved = time.monotonic()
            if stop:
                raise Interrupted(
                    f"stopped by {stopping.wish or 'a signal to another process'} after step "
                    f"{done} of {steps.total}; all is saved in {place.folder}: go on with --resume"
                )
    seconds = time.monotonic() - started
    ema_model = average.model if average else None
    return Outcome(
        done, loss, seconds, recorder.samples_per_s, learner.model, ema_model, learner.objective
    )


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
