"""The training loop: one for all models, which may be stopped at any moment and goes on exactly.

A batch is a function of (seed, epoch, number) and the random state of a step one of (seed,
step, rank), so that a snapshot needs no random states, and a run that was killed and resumed
ends with the same bits as one that never was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.config import to_json
from vitrail.errors import ConfigError
from vitrail.train import optimizer as optimizers
from vitrail.train.average import Average
from vitrail.train.batch import Batches
from vitrail.train.device import open_fabric, reduced
from vitrail.train.interrupt import Interrupted, Stopping
from vitrail.train.journal import Journal, Recorder
from vitrail.train.lean import Lean
from vitrail.train.objective import Objective, Step
from vitrail.train.schedule import Schedule
from vitrail.train.state import State
from vitrail.train.steps import Steps

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Interrupted", "Outcome", "Steps", "train"]


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

    @property
    def best(self) -> nn.Module:
        """The model to judge and keep: the average where there is one."""
        return self.model if self.ema_model is None else self.ema_model


def train(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    optimizer: optimizers.AdamW | optimizers.Sgd,
    schedule: Schedule,
    *,
    steps: Steps,
    folder: Path,
    journal: Journal | None = None,
    until: int | None = None,
    device: str | Fabric = "auto",
    resume: bool = False,
    methods: Sequence[Any] = (),
    workers: int = 0,
    on_step: Callable[[int, float, float, float], None] | None = None,
) -> Outcome:
    """Train `model`, in place, up to step `until` (default: all of them).

    `batches` gives micro-batches of `steps.batch / steps.accumulate` images. Snapshots go to
    `folder/checkpoint`; with `resume` the last one is the start. `methods` may have a
    `before_step(model, step)`. `on_step(step, loss, lr, samples_per_s)` hears of every step
    in the first process.

    Raises Interrupted after SIGTERM or Ctrl-C, with everything saved; RunError for a loss
    that is not finite twice, a full disk, or snapshots in the way; CheckpointError for
    snapshots of another training; ConfigError for settings that do not go together.
    """
    fabric = open_fabric(device, steps.precision)
    started = time.monotonic()
    until = steps.total if until is None else min(until, steps.total)
    parts, rank, world = steps.accumulate, fabric.global_rank, fabric.world_size
    _check(steps, batches, world)
    fabric.to_device(model.train())
    fabric.to_device(objective.train())
    net, stepper = fabric.setup(model, optimizers.build(optimizer, model))
    average = None if steps.ema is None else Average(model, steps.ema)
    modules = {"model": model, "objective": objective}
    state = State(
        modules | ({"ema": average.model} if average else {}),
        stepper.optimizer,
        _settings(steps, optimizer, batches),
        folder=Path(folder) / "checkpoint",
        fabric=fabric,
    )
    done, loss = state.start(resume)
    recorder = Recorder(journal if rank == 0 else None, on_step if rank == 0 else None, steps)
    recorder.rewind(done)
    less = Lean(model) if steps.lean else nullcontext
    before = [method.before_step for method in methods if hasattr(method, "before_step")]
    # On an accelerator a look at the loss waits for the device, so not every step takes one;
    # on the CPU torch.manual_seed would take 0.1 ms for the accelerators that are not used.
    on_cpu = fabric.device.type == "cpu"
    look, sow = (1, torch.default_generator.manual_seed) if on_cpu else (10, torch.manual_seed)
    feed, rows, rates, saved = None, [], [], time.monotonic()

    with Stopping() as stopping:
        while done < until:
            if feed is None:
                feed = batches.iterate(
                    done * parts, stop=until * parts, workers=workers, rank=rank, world=world
                )
            step = Step(done, steps.total, done * parts / batches.steps_per_epoch)
            for prepare in before:
                prepare(model, step)
            rates.append(optimizer.lr * schedule.factor(done) * state.caution)
            optimizers.adjust(stepper, rates[-1])
            sow(_mixed(batches.seed, done, rank))
            losses = []
            for part in range(parts):
                batch = next(feed).to(fabric.device)
                with fabric.no_backward_sync(net, enabled=part < parts - 1):
                    with less():
                        losses.append(objective(net, batch, step)["loss"])
                    fabric.backward(losses[-1] / parts)
            limit = steps.clip or math.inf
            norm = fabric.clip_gradients(net, stepper, max_norm=limit, error_if_nonfinite=False)
            stepper.step()
            stepper.zero_grad()
            if average:
                average.update(done)
            objective.after_step(model, step)
            done += 1
            rows.append(torch.stack([*losses, cast(Tensor, norm)]).detach())
            if done % look and done < until:
                continue

            seen, stop = _agreed(rows, stopping.wish is not None, fabric)
            if fault := _fault(seen, done - len(seen), parts, batches):
                done, loss = state.go_back(str(fault))
                recorder.rewind(done, fault=str(fault), samples=fault.samples)
                feed, rows, rates = None, [], []
                continue
            for number, (row, lr) in enumerate(zip(seen, rates, strict=True), done - len(seen)):
                loss = sum(row[:-1]) / parts
                recorder.step(number + 1, loss, lr, parts / batches.steps_per_epoch)
            rows, rates = [], []
            if stop or done == until or time.monotonic() - saved > steps.save_s:
                state.save(done, loss)
                saved = time.monotonic()
            if stop:
                raise Interrupted(
                    f"stopped by {stopping.wish or 'a signal to another process'} after step "
                    f"{done} of {steps.total}; all is saved in {folder}: go on with --resume"
                )
    seconds = time.monotonic() - started
    ema_model = average.model if average else None
    return Outcome(done, loss, seconds, recorder.samples_per_s, model, ema_model)


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


def _fault(
    rows: Sequence[Sequence[float]], done: int, parts: int, batches: Batches
) -> Fault | None:
    """The first thing that is not finite in rows of `parts` losses and a gradient's norm."""
    for step, row in enumerate(rows, done):
        for part, value in enumerate(row):
            if not math.isfinite(value):
                what = f"the loss is {value}" if part < parts else f"the gradient is {value}"
                running = step * parts + min(part, parts - 1)
                epoch, number = divmod(running, batches.steps_per_epoch)
                samples = batches.get(epoch, number).indices.tolist()
                return Fault(what, step + 1, epoch, number, samples)
    return None


def _agreed(rows: list[Tensor], wish: bool, fabric: Fabric) -> tuple[list[list[float]], bool]:
    """The rows averaged over the processes, and whether any of them wishes to stop."""
    values = torch.stack(rows)
    flat = torch.cat([values.flatten(), values.new_tensor([float(wish)])])
    flat = reduced(flat, fabric, "mean")
    return flat[:-1].view_as(values).tolist(), flat[-1].item() > 0


def _settings(
    steps: Steps, optimizer: optimizers.AdamW | optimizers.Sgd, batches: Batches
) -> dict[str, Any]:
    """What decides the bits of a step, as far as the loop knows it.

    Not the schedule and the total: a short training may go on as a long one.
    """
    names = ("batch", "accumulate", "clip", "ema", "precision")
    kind = type(optimizer).__name__.lower()
    return {name: getattr(steps, name) for name in names} | {
        "optimizer": {"kind": kind, **to_json(optimizer)},
        "seed": batches.seed,
    }


def _check(steps: Steps, batches: Batches, world: int) -> None:
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


def _mixed(*numbers: int) -> int:
    """One seed from several numbers, well mixed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
