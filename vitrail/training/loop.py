"""The training loop: one for all models, which may be stopped at any moment and goes on exactly.

A batch is a function of (seed, epoch, number) and the random state of a step one of (seed,
step, rank), so that a snapshot needs no random states, and a run that was killed and resumed
ends with the same bits as one that never was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.training import optimizer as optimizers
from vitrail.training.activations import Saving, saving
from vitrail.training.average import Average
from vitrail.training.batch import Batch, Batches
from vitrail.training.clipping import clip_units
from vitrail.training.device import open_fabric, reduced
from vitrail.training.interrupt import Interrupted, Stopping
from vitrail.training.journal import Recorder
from vitrail.training.learner import Handed, Learner, Turn
from vitrail.training.objective import Objective, Step, detached
from vitrail.training.plan import Place, Plan
from vitrail.training.state import State
from vitrail.training.steps import Steps

if TYPE_CHECKING:
    from lightning_fabric import Fabric

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
    machine = _Machine(learner, plan, fabric)
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
    feeds: _Feeds | None = None
    rows: list[Row] = []
    rates: list[float] = []
    saved = time.monotonic()

    with Stopping() as stopping:
        while done < until:
            if feeds is None:
                feeds = _Feeds(batches, second, learner, done, until, parts, place.workers, fabric)
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

            seen, stop = _agreed(rows, stopping.wish is not None, fabric)
            if fault := _fault(seen, done - len(seen), parts, batches):
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


class Row(NamedTuple):
    """What one step said: the loss of each micro-batch, the gradient's norm, the other terms."""

    values: Tensor
    names: tuple[str, ...]


class Told(NamedTuple):
    """A row, averaged over the processes, as plain numbers."""

    losses: list[float]
    norm: float
    terms: dict[str, float]


class _Feeds:
    """The streams of micro-batches that a training reads, from a step on."""

    def __init__(
        self,
        batches: Batches,
        second: Batches | None,
        learner: Learner,
        done: int,
        until: int,
        parts: int,
        workers: int,
        fabric: Fabric,
    ) -> None:
        def feed(source: Batches, begin: int, stop: int) -> Iterator[Batch]:
            rank, world = fabric.global_rank, fabric.world_size
            return source.iterate(
                begin * parts, stop=stop * parts, workers=workers, rank=rank, world=world
            )

        self.first = feed(batches, done, until)
        two = learner.objective.two
        self.second = None
        if two is not None and second is not None:
            # Steps 0, every, 2 every ... took one each.
            self.second = feed(second, -(-done // two.every), -(-until // two.every))


class _Machine:
    """A learner on its device with its optimizers: what makes one step."""

    def __init__(self, learner: Learner, plan: Plan, fabric: Fabric) -> None:
        self.learner, self.plan, self.fabric = learner, plan, fabric
        self.two = two = learner.objective.two

        def chosen(name: str) -> bool:
            return two is not None and any(fnmatch(name, pattern) for pattern in two.chosen)

        made = [optimizers.build(plan.optimizer, learner, lambda name: not chosen(name))]
        if two is not None:
            made.append(optimizers.build(two.optimizer, learner, chosen))
        self.net, *self.steppers = fabric.setup(learner, *made)
        self.less: Saving | None = None
        names = ("optimizer", "second")
        self.named = {n: s.optimizer for n, s in zip(names, self.steppers, strict=False)}

    def adjust(self, done: int, caution: float) -> float:
        """Set the learning rates of the step after `done`; returns the first optimizer's."""
        factor = self.plan.schedule.factor(done, self.plan.steps.total)
        rate = self.plan.optimizer.lr * factor * caution
        decay = optimizers.decay(self.plan.optimizer, done, self.plan.steps.total)
        optimizers.adjust(self.steppers[0], rate, decay)
        if self.two is not None:
            optimizers.adjust(self.steppers[1], self.two.optimizer.lr * factor * caution)
        return rate

    def step(self, feeds: _Feeds, step: Step) -> Row:
        """Take a step of the second optimizer where it is due, and one of the first."""
        if self.two is not None and feeds.second is not None and step.number % self.two.every == 0:
            before = self._turn(self.steppers[1], feeds.second, step, "second")
            row = self._turn(self.steppers[0], feeds.first, step, "first")
            names = (*row.names, *(f"second.{n}" for n in ("norm", *before.names)), "second.loss")
            parts = self.plan.steps.accumulate
            loss = before.values[:parts].mean()[None]
            return Row(torch.cat([row.values, before.values[parts:], loss]), names)
        return self._turn(self.steppers[0], feeds.first, step, "first")

    def _saving(self, images: Tensor) -> Saving:
        """Return what is around every forward pass, decided at the first."""
        if self.less is None:
            # Processes on one CPU share its memory; accelerators have each their own.
            where, model = images.device, self.learner.model
            share = self.fabric.world_size if where.type == "cpu" else 1
            self.less = saving(self.plan.steps.lean, model, images.shape, where, share)
        return self.less

    def _turn(
        self, stepper: optimizers.Stepper, feed: Iterator[Batch], step: Step, turn: Turn
    ) -> Row:
        fabric, steps = self.fabric, self.plan.steps
        losses, told = [], []
        for part in range(steps.accumulate):
            batch = Handed(next(feed).to(fabric.device))
            # A head alone keeps next to nothing.
            less = nullcontext if batch.batch.embedded else self._saving(batch.batch.images)
            with fabric.no_backward_sync(self.net, enabled=part < steps.accumulate - 1):
                with less(), _several():
                    terms = self.net(batch, step, turn)
                fabric.backward(terms["loss"] / steps.accumulate)
            losses.append(terms["loss"].detach())
            told.append(detached(terms))
        if steps.units is not None:
            clip_units(self.learner.parameters(), steps.units)
        limit = steps.clip or math.inf
        norm = fabric.clip_gradients(
            self.net,
            stepper,  # pyright: ignore[reportArgumentType]
            max_norm=limit,
            error_if_nonfinite=False,
        )
        stepper.step()
        for one in self.steppers:
            one.zero_grad()
        names = tuple(told[0])
        means = [torch.stack([each[name] for each in told]).mean() for name in names]
        return Row(torch.stack([*losses, cast(Tensor, norm), *means]).detach(), names)


@dataclass(frozen=True)
class Fault:
    """A step whose loss or gradient is not finite, and the micro-batch that it came from."""

    what: str
    step: int
    epoch: int
    number: int
    samples: list[int]

    def __str__(self) -> str:
        first = ", ".join(map(str, self.samples[:8]))
        rest = f" and {len(self.samples) - 8} more" if len(self.samples) > 8 else ""
        return (
            f"{self.what} in step {self.step} (epoch {self.epoch}, batch {self.number}, "
            f"samples {first}{rest})"
        )


def _fault(rows: Sequence[Told], done: int, parts: int, batches: Batches) -> Fault | None:
    """Find the first loss or gradient that is not finite."""
    for step, row in enumerate(rows, done):
        for part, value in enumerate([*row.losses, row.norm]):
            if not math.isfinite(value):
                what = f"the loss is {value}" if part < parts else f"the gradient is {value}"
                running = step * parts + min(part, parts - 1)
                epoch, number = divmod(running, batches.steps_per_epoch)
                samples = batches.get(epoch, number).indices.tolist()
                return Fault(what, step + 1, epoch, number, samples)
    return None


def _agreed(rows: list[Row], wish: bool, fabric: Fabric) -> tuple[list[Told], bool]:
    """Average the rows over the processes, and ask whether any of them wishes to stop."""
    flat = torch.cat([row.values for row in rows])
    flat = reduced(torch.cat([flat, flat.new_tensor([float(wish)])]), fabric, "mean")
    *values, wishes = flat.tolist()
    told, at = [], 0
    for row in rows:
        own, at = values[at : at + len(row.values)], at + len(row.values)
        parts = len(own) - len(row.names) - 1
        terms = dict(zip(row.names, own[parts + 1 :], strict=True))
        told.append(Told(own[:parts], own[parts], terms))
    return told, wishes > 0


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
            f"there are fewer training images than one batch of {batches.batch}: give a smaller "
            "steps.batch"
        )
    if learner.objective.two is not None and second is None:
        raise ConfigError(
            f"{type(learner.objective).__name__} has a second optimizer, which learns from images "
            "of its own: give a second stream of batches"
        )


@contextmanager
def _several() -> Iterator[None]:
    """Turn the error of a BatchNorm that sees one value a channel into a sentence."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "a BatchNorm of this model has nothing to average over in so small a batch: give a "
            "larger steps.batch"
        ) from error


def _mixed(*numbers: int) -> int:
    """Mix several numbers into one seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
