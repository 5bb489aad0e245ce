"""The full training of the winner: on from where the race left it, to the end of the time.

The rate stays constant until `hold`, about a third of the steps. Only there the number of
steps is fixed, from the rate measured so far and the time that is left, and then the cosine
runs down: so a busy machine costs steps, not the deadline. What was decided is written down
before it is acted upon, so that a resumed training takes the same steps.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from vitrail.recipes.recipe import Recipe
from vitrail.run.finish import Trained
from vitrail.run.state import State
from vitrail.run.watch import Watched
from vitrail.search.rungs import EFFICIENCY, Runner

HOLD = 0.35
# A little is left over, so that the last look at the validation part is within the time.
PUNCTUALITY = 0.98


def train_in_full(runner: Runner, run: Watched, state: State, deadline: float) -> Trained:
    """Train a candidate until `deadline` (of time.monotonic()); the better of its weights.

    Writes validation scores into the journal.
    """
    name, batch = runner.candidate.name, runner.recipe.steps.batch
    plan: dict[str, Any] | None = state.finals.get(name)
    if plan is None:
        rate = runner.rate or (runner.candidate.rate or 0.0) * EFFICIENCY
        rate *= run.workshop.speedup
        more = max(1, int(rate * max(0.0, deadline - time.monotonic()) * PUNCTUALITY / batch))
        plan = {
            "hold": runner.done + int(HOLD * more),
            "total": runner.done + more,
            "pace": rate / batch,
            "fixed": False,
        }
        state.decide(name, plan)
    run.view.update(name, status="training", steps=runner.done)
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
    return Trained(runner.candidate, recipe, *run.to_end(recipe, plan["hold"]))


def _timed(recipe: Recipe, plan: dict[str, Any]) -> Recipe:
    schedule = replace(recipe.schedule, hold=plan["hold"])
    return replace(recipe, schedule=schedule, steps=replace(recipe.steps, total=plan["total"]))
