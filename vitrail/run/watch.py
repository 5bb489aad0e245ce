"""A training that goes on from mark to mark, with a look at the validation part at each."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from vitrail.recipes.recipe import Recipe
from vitrail.run.view import View
from vitrail.run.workshop import Workshop
from vitrail.tasks.task import Scores
from vitrail.training.journal import Journal
from vitrail.training.loop import Outcome

LOOKS = 10
# Images of the validation part on which networks are compared on the way: enough to tell 2 % apart.
LOOK_AT = 2000


def checkpoints(run: Path, name: str) -> Path:
    """Return where the snapshots and the journal of a model are kept."""
    return run / "checkpoints" / name


class Watched:
    """Trains the model `name` of a run folder and writes validation scores into its journal."""

    def __init__(self, workshop: Workshop, run: Path, name: str, view: View) -> None:
        self.workshop, self.name, self.view, self.made = workshop, name, view, 0
        self.folder = checkpoints(run, name)
        self.journal = Journal(self.folder / "metrics.jsonl")

    def advance(self, recipe: Recipe, mark: int) -> Outcome:
        """Go on to step `mark`, unless it is passed already."""
        outcome = self._trained(recipe, mark)
        if outcome.step == mark:
            self._write(mark, self.workshop.validate(outcome.best, recipe, LOOK_AT))
        return outcome

    def marks(self, recipe: Recipe, begin: int, end: int) -> list[int]:
        """Return the steps at which to look, evenly up to `end`, which is one of them.

        Several processes have to be started for each, so they look less often.
        """
        looks = LOOKS if self.workshop.devices == 1 else 2
        pace = max(1, recipe.steps.total // looks)
        return [*range(begin + pace, end - pace // 2, pace), end]

    def to_end(self, recipe: Recipe, begin: int = 0) -> tuple[nn.Module, Scores]:
        """Go on to the last step; returns the better of the average and the last weights."""
        *marks, end = self.marks(recipe, begin, recipe.steps.total)
        for mark in marks:
            self.advance(recipe, mark)
        outcome = self._trained(recipe, end)
        model, scores = self.workshop.better(outcome, recipe)
        if outcome.step == end:
            self._write(end, scores)
        return model, scores

    def _trained(self, recipe: Recipe, mark: int) -> Outcome:
        def on_step(step: int, loss: float, lr: float, rate: float) -> None:
            self.made += 1
            self.view.step(self.name, step, recipe.steps.total)

        return self.workshop.train(recipe, self.folder, mark, on_step, together=True)

    def _write(self, mark: int, scores: Scores) -> None:
        self.journal.write(mark, val_score=scores.main, val_loss=scores.loss)
        self.view.update(self.name, accuracy=scores.main, steps=mark)
