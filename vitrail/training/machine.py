"""What makes one step of a training: a learner on its device, its optimizers, what they read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatch
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.training import optimizer as optimizers
from vitrail.training.activations import Saving, saving
from vitrail.training.batch import Batch, Batches
from vitrail.training.clipping import clip_units
from vitrail.training.learner import Handed, Learner, Turn
from vitrail.training.objective import Second, Step, detached
from vitrail.training.plan import Plan

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Row(NamedTuple):
    """What one step said: the loss of each micro-batch, the gradient's norm, the other terms."""

    values: Tensor
    names: tuple[str, ...]


class Feeds:
    """The streams of micro-batches that a training reads in some of its steps.

    `batches` are those of the optimizer and of the second one, of which a step takes `parts`.
    """

    def __init__(
        self,
        batches: tuple[Batches, Batches | None],
        two: Second | None,
        steps: range,
        parts: int,
        workers: int,
        fabric: Fabric,
    ) -> None:
        def feed(source: Batches, begin: int, stop: int) -> Iterator[Batch]:
            rank, world = fabric.global_rank, fabric.world_size
            return source.iterate(
                begin * parts, stop=stop * parts, workers=workers, rank=rank, world=world
            )

        main, second = batches
        self.first = feed(main, steps.start, steps.stop)
        self.second = None
        if two is not None and second is not None:
            # Steps 0, every, 2 every ... took one each.
            self.second = feed(second, -(-steps.start // two.every), -(-steps.stop // two.every))


class Machine:
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

    def step(self, feeds: Feeds, step: Step) -> Row:
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
