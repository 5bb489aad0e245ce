"""Whether a trained network answers better by an image and its mirror image: measured."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

from vitrail.errors import ConfigError
from vitrail.methods import BothSides
from vitrail.run.budget import Budget
from vitrail.run.finish import Trained
from vitrail.run.workshop import Workshop
from vitrail.tasks import Classification, MultiLabel
from vitrail.tasks.task import Scores


@dataclass(frozen=True, eq=False)
class Sided:
    """A trained model that answers by both sides, and its validation scores by `one`."""

    trained: Trained
    one: Scores

    @property
    def sentence(self) -> str:
        """Say what it brought."""
        both = self.trained.scores
        return (
            "the network answers by an image and its mirror image, which takes twice the time: "
            f"{both.name} on {both.n} validation images is {both.main:.1%}, where one side has "
            f"{self.one.main:.1%}"
        )


def sided(trained: Trained, workshop: Workshop, budget: Budget) -> Sided | None:
    """Let a trained model answer by both sides where that is better and within the budget.

    It is better if as many validation images are right, or more, and the loss is less. None where
    it is not, where images were not mirrored in training, or where the network answers about
    something else than whole images.
    """
    subject, macs = trained.subject, 2 * trained.subject.macs
    if not _arises(trained) or not budget.allows(params=subject.params, macs=macs):
        return None
    recipe = replace(trained.recipe, methods=(*trained.recipe.methods, BothSides()))
    model = BothSides().apply(deepcopy(trained.model))
    scores = workshop.validate(model, recipe)
    if scores.main < trained.scores.main or scores.loss >= trained.scores.loss:
        return None
    found = replace(
        trained, subject=replace(subject, macs=macs), recipe=recipe, model=model, scores=scores
    )
    return Sided(found, trained.scores)


def _arises(trained: Trained) -> bool:
    """Tell whether images were mirrored in training, have one answer each, at one setting."""
    recipe = trained.recipe
    if trained.dial is not None or recipe.augment.flip == 0:
        return False
    if not isinstance(recipe.task, Classification | MultiLabel):
        return False
    try:
        BothSides().check(trained.model)
    except ConfigError:
        return False
    return True
