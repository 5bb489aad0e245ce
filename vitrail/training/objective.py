"""What is minimised: a module that maps a model and a batch to named terms, "loss" among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vitrail import digests
from vitrail.training.batch import Batch

if TYPE_CHECKING:
    from vitrail.training.optimizer import Optimizer

Model = Callable[[Tensor], Any]


class Step(NamedTuple):
    """Where a training stands: steps done before this one, of how many, and epochs (fractional).

    What a method draws for a step it draws from the training's `seed` and the number, so that a
    resumed training draws the same.
    """

    number: int
    total: int
    epoch: float
    seed: int = 0


@dataclass(frozen=True)
class Second:
    """Declares a second optimizer: for the weights of an architecture, or an adversary.

    It trains the learner's parameters whose names match one of `chosen` (shell patterns such as
    "model.*.alpha"), and the first optimizer leaves these alone. Every `every` steps, before the
    first optimizer's step, it takes a step on `Objective.second`.
    """

    optimizer: Optimizer
    chosen: tuple[str, ...]
    every: int = 1


class Objective(nn.Module):
    """Owns whatever a loss needs beside the model: projection heads, centres, queues, teachers.

    Its parameters are trained, its buffers are in the snapshots. A teacher that never changes
    belongs into `Frozen`.
    """

    two: ClassVar[Second | None] = None
    # Parameters of the learner, by name, that learn at another rate: the share of it. They take no
    # weight decay.
    paces: Mapping[str, float] = {}

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Map a micro-batch to scalars by name; "loss" is minimised, the journal keeps all."""
        raise NotImplementedError

    def second(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Map a micro-batch of the second stream to what the second optimizer minimises.

        Asked only where `two` is declared.
        """
        raise NotImplementedError

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Do what is due after an optimizer step: by default nothing. Does nothing by default."""

    def kept(self, model: nn.Module) -> nn.Module:
        """Return what is judged and kept of a training: the model itself, or its teacher."""
        return model


class Frozen(nn.Module):
    """A module that never changes: in eval mode, without gradients, in no snapshot.

    It follows its owner to a device; its parameters are nobody else's business.
    """

    inner: nn.Module

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        # Not registered, so that optimizers, averages and state dicts do not see it.
        object.__setattr__(self, "inner", inner.eval().requires_grad_(False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        self.inner._apply(fn, recurse)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        return self.inner(*inputs)


class Taught(Frozen):
    """A teacher that never changes: maps a batch to what it says of the images.

    Where its answers are `known`, (images, views, classes), they are looked up instead of computed,
    for batches whose views can be told.
    """

    known: Tensor | None = None

    @torch.no_grad()
    def forward(self, batch: Batch) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.known is None or batch.views is None:
            return self.inner(batch.images)
        if self.known.device != batch.indices.device:
            self.known = self.known.to(batch.indices.device)
        return self.known[batch.indices, batch.views]


def teachers(objective: nn.Module) -> dict[str, str]:
    """Return the digests of what is frozen in an objective, by the names of the modules."""
    return {
        name: digests.of_tensors(module.inner.state_dict())
        for name, module in objective.named_modules()
        if isinstance(module, Frozen)
    }


def detached(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the terms beside "loss" without their graph, in the order of their names."""
    return {name: terms[name].detach().float() for name in sorted(terms) if name != "loss"}
