"""What the papers of searches train a network with that was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vitrail.config import to_json
from vitrail.methods import BinaryWeights, ScheduledDropPath
from vitrail.models import config_json
from vitrail.objectives import CrossEntropy
from vitrail.recipes.recipe import Recipe

# What the loss of a second head weighs in PNAS and in DARTS.
AUXILIARY = 0.4
DROP_PATH = 0.1


def _pnas(recipe: Recipe) -> Recipe:
    """Add an auxiliary head, and a drop path that rises with the cells and the steps."""
    model = to_json(config_json(replace(recipe.config, auxiliary=True)))
    return _weighed(replace(recipe, model=model, methods=(ScheduledDropPath(DROP_PATH),)))


def _bats(recipe: Recipe) -> Recipe:
    """Add an auxiliary head; inputs are binary from the start, weights from the second half on."""
    return _weighed(replace(recipe, methods=(BinaryWeights(),)))


def _weighed(recipe: Recipe) -> Recipe:
    if not isinstance(recipe.objective, CrossEntropy):
        return recipe
    return replace(recipe, objective=replace(recipe.objective, auxiliary=AUXILIARY))


OWN: dict[str, Callable[[Recipe], Recipe]] = {"pnas": _pnas, "bats": _bats}


def finishing(name: str, recipe: Recipe) -> Recipe:
    """Return the recipe of a found network as the search `name` has it."""
    return OWN[name](recipe) if name in OWN else recipe
