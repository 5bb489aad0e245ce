"""The full training of the winner: on from where the race left it, to the end of the time.

The rate stays constant until `hold`, about a third of the steps. Only there the number of
steps is fixed, from the rate measured so far and the time that is left, and then the cosine
runs down: so a busy machine costs steps, not the deadline. What was decided is written down
before it is acted upon, so that a resumed training takes the same steps.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.models import Backbone
from vitrail.recipes.recipe import Recipe
from vitrail.run.state import State
from vitrail.run.view import View
from vitrail.run.workshop import Score, Trainer
from vitrail.search.race import checkpoint
from vitrail.search.rungs import EFFICIENCY, Runner
from vitrail.train.journal import Journal
from vitrail.train.loop import Outcome

HOLD = 0.35
LOOKS = 10
# A little is left over, so that the last look at the validation part is within the time.
PUNCTUALITY = 0.96


def finish_training(
    runner: Runner, trainer: Trainer, *, folder: Path, state: State, deadline: float, view: View
) -> tuple[Recipe, Backbone, Score]:
    """The complete recipe, the model with its better weights (last or average), their score.

    `deadline` is of time.monotonic(). Writes validation scores into the journal.
    """
    name, batch = runner.candidate.name, runner.recipe.steps.batch
    where = checkpoint(folder, runner.candidate)
    plan: dict[str, Any] | None = state.finals.get(name)
    if plan is None:
        rate = runner.rate or (runner.candidate.rate or 0.0) * EFFICIENCY
        rate *= trainer.speedup
        more = max(1, int(rate * max(0.0, deadline - time.monotonic()) * PUNCTUALITY / batch))
        plan = {
            "hold": runner.done + int(HOLD * more),
            "total": runner.done + more,
            "pace": rate / batch,
            "fixed": False,
        }
        state.decide(name, plan)
    view.update(name, status="training", steps=runner.done)
    run = _Run(trainer, where, name, view)
    recipe = _timed(runner.recipe, plan)
    if not plan["fixed"]:
        started = time.monotonic()
        for mark in run.marks(recipe, runner.done, plan["hold"]):
            run.advance(recipe, mark)
        spent, left = time.monotonic() - started, max(0.0, deadline - time.monotonic())
        # A resumed training may have had all of these steps behind it.
        pace = run.made / spent if run.made > 4 else plan["pace"]
        total = plan["hold"] + max(1, int(pace * left * PUNCTUALITY))
        plan = plan | {"total": total, "fixed": True}
        state.decide(name, plan)
        recipe = _timed(runner.recipe, plan)
    return recipe, *run.to_end(recipe, plan["hold"])


def train_to_end(
    runner: Runner, trainer: Trainer, *, folder: Path, view: View
) -> tuple[Backbone, Score]:
    """A recipe that is complete already: the model with its better weights, their score."""
    name = runner.candidate.name
    view.update(name, status="training")
    run = _Run(trainer, checkpoint(folder, runner.candidate), name, view)
    return run.to_end(runner.recipe, 0)


class _Run:
    """A training that goes on from mark to mark, with a look at the validation part at each."""

    def __init__(self, trainer: Trainer, where: Path, name: str, view: View) -> None:
        self.trainer, self.where = trainer, where
        self.name, self.view, self.made = name, view, 0
        self.journal = Journal(where / "metrics.jsonl")

    def advance(self, recipe: Recipe, mark: int) -> Outcome:
        """On to step `mark`, unless it is passed already."""

        def on_step(step: int, loss: float, lr: float, rate: float) -> None:
            self.made += 1
            self.view.step(self.name, step, recipe.steps.total)

        outcome = self.trainer.train(recipe, self.where, mark, on_step, together=True)
        if outcome.step == mark:
            score = self.trainer.validate(outcome.best, recipe)
            self.journal.write(mark, val_accuracy=score.accuracy, val_loss=score.loss)
            self.view.update(self.name, accuracy=score.accuracy, steps=mark)
        return outcome

    def marks(self, recipe: Recipe, begin: int, end: int) -> list[int]:
        """Steps at which to look, evenly up to `end`, which is one of them.

        Several processes have to be started for each, so they look less often.
        """
        looks = LOOKS if self.trainer.devices == 1 else 2
        pace = max(1, recipe.steps.total // looks)
        return [*range(begin + pace, end - pace // 2, pace), end]

    def to_end(self, recipe: Recipe, begin: int) -> tuple[Backbone, Score]:
        """On to the last step; the better of the average and the last weights."""
        *marks, end = self.marks(recipe, begin, recipe.steps.total)
        for mark in marks:
            self.advance(recipe, mark)
        return self.trainer.better(self.advance(recipe, end), recipe)


def _timed(recipe: Recipe, plan: dict[str, Any]) -> Recipe:
    schedule = replace(recipe.schedule, hold=plan["hold"], total=plan["total"])
    return replace(recipe, schedule=schedule, steps=replace(recipe.steps, total=plan["total"]))
