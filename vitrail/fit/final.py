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

from torch import nn

from vitrail.fit.race import EFFICIENCY, Runner, checkpoint
from vitrail.fit.state import State
from vitrail.fit.trainer import Score, Trainer
from vitrail.fit.view import View
from vitrail.recipes.recipe import Recipe
from vitrail.train.journal import Journal
from vitrail.train.loop import Outcome

HOLD = 0.35
LOOKS = 10
# A little is left over, so that the last look at the validation part is within the time.
PUNCTUALITY = 0.96


def finish_training(
    runner: Runner, trainer: Trainer, *, folder: Path, state: State, deadline: float, view: View
) -> tuple[Recipe, nn.Module, Score]:
    """The complete recipe, the model with its better weights (last or average), their score.

    `deadline` is of time.monotonic(). Writes validation scores into the journal.
    """
    name, batch = runner.candidate.name, runner.recipe.steps.batch
    where = checkpoint(folder, runner.candidate)
    journal = Journal(where / "metrics.jsonl")
    plan = state.finals.get(name)
    if plan is None:
        rate = runner.rate or (runner.candidate.rate or 0.0) * EFFICIENCY
        more = max(1, int(rate * max(0.0, deadline - time.monotonic()) * PUNCTUALITY / batch))
        plan = {"hold": runner.done + int(HOLD * more), "total": runner.done + more}
        plan["fixed"] = 0
        state.decide(name, plan)
    view.update(name, status="training", steps=runner.done)
    recipe = _timed(runner.recipe, plan)
    if not plan["fixed"]:
        begin, started = runner.done, time.monotonic()
        for mark in _marks(begin, plan["hold"], plan["total"]):
            _advance(recipe, trainer, where, mark, journal, name, view)
        spent, left = time.monotonic() - started, deadline - time.monotonic()
        if plan["hold"] > begin and spent > 0:
            pace = (plan["hold"] - begin) / spent
            total = plan["hold"] + max(1, int(pace * max(0.0, left) * PUNCTUALITY))
            plan = plan | {"total": total}
        plan = plan | {"fixed": 1}
        state.decide(name, plan)
        recipe = _timed(runner.recipe, plan)
    outcome, score = None, None
    for mark in _marks(plan["hold"], plan["total"], plan["total"]):
        outcome, score = _advance(recipe, trainer, where, mark, journal, name, view)
    assert outcome is not None
    if score is None:
        score = trainer.validate(outcome.best, recipe)
    if outcome.ema_model is not None:
        last = trainer.validate(outcome.model, recipe)
        if (last.accuracy, -last.loss) > (score.accuracy, -score.loss):
            return recipe, outcome.model.eval(), last
    return recipe, outcome.best.eval(), score


def _advance(
    recipe: Recipe,
    trainer: Trainer,
    where: Path,
    mark: int,
    journal: Journal,
    name: str,
    view: View,
) -> tuple[Outcome, Score | None]:
    """On to step `mark` and a look at the validation part, unless that is behind already."""
    outcome = trainer.train(
        recipe, where, mark, lambda step, loss, lr, rate: view.step(name, step, recipe.steps.total)
    )
    if outcome.step != mark:
        return outcome, None
    score = trainer.validate(outcome.best, recipe)
    journal.write(mark, val_accuracy=score.accuracy, val_loss=score.loss)
    view.update(name, accuracy=score.accuracy, steps=mark)
    return outcome, score


def _timed(recipe: Recipe, plan: dict[str, int]) -> Recipe:
    schedule = replace(recipe.schedule, hold=plan["hold"], total=plan["total"])
    return replace(recipe, schedule=schedule, steps=replace(recipe.steps, total=plan["total"]))


def _marks(begin: int, end: int, total: int) -> list[int]:
    """Steps at which to look, evenly up to `end`, which is one of them; LOOKS in `total`."""
    pace = max(1, total // LOOKS)
    return [*range(begin + pace, end - pace // 2, pace), end]
