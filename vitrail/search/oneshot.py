"""Training of a shared network: every step trains one random candidate of the space.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020,
arXiv 1904.00420. The candidate of a step is drawn from the training's seed and the step's number,
so that a training which goes on draws the same.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail.recipes.recipe import Recipe
from vitrail.run.state import State
from vitrail.run.workshop import Workshop
from vitrail.search.spaces.space import SharedSpace, drawn
from vitrail.training.batch import Batch
from vitrail.training.learner import Learner
from vitrail.training.loop import Outcome
from vitrail.training.objective import Model, Objective, Step

# The name of a shared network among the checkpoints and decisions of a run.
SHARED = "shared"
# Steps that tell the pace; the first alone where they would take a tenth of the time or more.
FIRST, PROBE, MOST_PROBING = 2, 12, 0.1
FEWEST = 20
HOLD = 0.5
# Told of each step: which one, and of how many.
OnShared = Callable[[int, int], None]


class SinglePath(Objective):
    """Minimises what `inner` does on the logits of the candidate that a step draws.

    A space whose rules are summed adds the logits of all of them, as ViTAS trains both sides; of
    others a step draws one rule.
    """

    def __init__(self, inner: Objective, space: SharedSpace) -> None:
        super().__init__()
        self.inner, self.space = inner, space

    def forward(self, model: Model, batch: Batch, step: Step) -> dict[str, Tensor]:
        space, rng = self.space, random.Random(f"{step.seed} {step.number}")
        config = space.config(drawn(space, rng))
        rules = space.rules if space.summed else (rng.choice(space.rules),)
        shared: Any = model

        def asked(images: Tensor) -> Tensor:
            return torch.stack([shared(images, config, rule) for rule in rules]).sum(0)

        return self.inner(asked, batch, step)


# Makes what is minimised of a shared network out of what the task minimises.
Shares = Callable[[Objective, Any], Objective]


# Makes of a decision that of all machines which search together.
Agree = Callable[[str, Any], Any]


def _own(what: str, value: Any) -> Any:
    return value


@dataclass(frozen=True, eq=False)
class OneShot:
    """The training of the shared network of a space, by a recipe of its largest candidate.

    `name` is that of its decisions in the state of the run; `shares` says how a step trains it.
    Machines that `agree` on its steps train the same network, each its own.
    """

    space: SharedSpace
    recipe: Recipe
    workshop: Workshop
    folder: Path
    name: str = SHARED
    shares: Shares = SinglePath
    agree: Agree = _own

    def trained(self, state: State, seconds: float, on_step: OnShared) -> Any:
        """Train for about `seconds`, and return the shared network in eval mode.

        Half-way the number of steps is fixed, from the pace so far, and the learning rate begins to
        fall; what was decided is written down before it is acted upon.
        """
        plan: Any = state.finals.get(self.name)
        batch, began = self.recipe.steps.batch, time.monotonic()
        if plan is None:
            pace, probed = self._probed(seconds, on_step)
            more = max(FEWEST, int(pace * max(0.0, seconds - (time.monotonic() - began))))
            hold = probed + int(HOLD * more)
            plan = {"hold": hold, "total": probed + more, "pace": pace, "fixed": False}
            plan = self.agree(f"{self.name} begins", plan)
            state.decide(self.name, plan)
        if not plan["fixed"]:
            before = time.monotonic()
            outcome = self._to(plan["hold"], plan, on_step)
            if outcome.samples_per_s > 0 and before - began < seconds:
                left = max(0.0, seconds - (time.monotonic() - began))
                more = max(FEWEST, int(outcome.samples_per_s / batch * left))
                plan = plan | {"total": min(plan["total"], plan["hold"] + more)}
            plan = self.agree(f"{self.name} ends", plan | {"fixed": True})
            state.decide(self.name, plan)
        outcome = self._to(plan["total"], plan, on_step)
        return outcome.model.eval()

    def _probed(self, seconds: float, on_step: OnShared) -> tuple[float, int]:
        """Return how many steps a second takes, by the first steps, and how many these were."""
        plan, pace = {"hold": PROBE, "total": 1 << 20}, 1.0
        for number in (FIRST, PROBE):
            outcome = self._to(number, plan, on_step)
            if outcome.samples_per_s > 0:
                pace = outcome.samples_per_s / self.recipe.steps.batch
            if PROBE / pace > MOST_PROBING * seconds:
                return pace, number
        return pace, PROBE

    def _to(self, until: int, plan: dict[str, Any], on_step: OnShared) -> Outcome:
        """Go on to a step, from the last snapshot where there is one."""
        recipe = self.recipe
        steps = replace(recipe.steps, total=plan["total"], ema=None, lean=False)
        recipe = replace(recipe, steps=steps, schedule=replace(recipe.schedule, hold=plan["hold"]))
        torch.manual_seed(recipe.seed)
        shared = self.space.supernet()
        inner = recipe.objective.build(shared, self.workshop.builder.context)
        learner = Learner(shared, self.shares(inner, self.space))
        total = min(plan["total"], until) if plan["total"] >= 1 << 20 else plan["total"]
        return self.workshop.train(
            recipe, self.folder, until, lambda step, *_: on_step(step, total), learner=learner
        )
