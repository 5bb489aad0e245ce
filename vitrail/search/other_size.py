"""Another size of the race's winner, where its real rate makes that suit the time better.

Candidates are timed for a moment before the race. A machine that is busy just then makes all of
them look slow, and only small ones race. During the race each tells its real rate. So the winner's
family is looked at once more when the race is over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vitrail.models import families
from vitrail.run.budget import Budget
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.fitness import worth
from vitrail.search.rungs import EFFICIENCY, Runner
from vitrail.search.space import spread
from vitrail.units import count

# So far off, either way, the rate must have been before the race.
AWRY = 1.5
# What another size must promise in accuracy, since it begins anew and has not raced.
GAIN = 0.01
# So many sizes of a family are counted at most.
MOST = 64


@dataclass(frozen=True)
class Rest:
    """What is left after a race: seconds for `images` training images, and the limits.

    With `sides` the network may answer by both sides of an image in the end.
    """

    images: int
    seconds: float
    budget: Budget
    sides: bool


def other_size(winner: Runner, rest: Rest) -> Candidate | None:
    """Return a model of the winner's family that suits the rest of the time better, if one does."""
    one, batch = winner.candidate, winner.recipe.steps.batch
    if not winner.rate or not one.rate or one.pretrained:
        return None
    if max(winner.rate / one.rate, EFFICIENCY * one.rate / winner.rate) < AWRY:
        return None
    sides = rest.budget if rest.sides and winner.recipe.augment.flip > 0 else None
    # What it has trained already counts for the winner alone.
    trained = winner.done * batch / winner.rate
    mine = worth(replace(one, rate=winner.rate), rest.images, rest.seconds + trained, sides)
    best, most = None, mine + GAIN
    for other in _sizes(one):
        if not rest.budget.allows(params=other.params, macs=other.macs):
            continue
        other = replace(other, rate=winner.rate * one.macs / other.macs, precision=one.precision)
        value = worth(other, rest.images, rest.seconds, sides)
        if value > most:
            best, most = other, value
    return best


def said(winner: Runner, other: Candidate) -> str:
    """Say why another size is trained."""
    rates = [count(int(rate or 0.0)) for rate in (winner.rate, winner.candidate.rate)]
    return (
        f"{other.title} is trained in place of {winner.candidate.title}, which won the race: that "
        f"learned from {rates[0]} images a second, where {rates[1]} were measured before the race, "
        "so another size of its family suits the time better"
    )


def _sizes(one: Candidate) -> list[Candidate]:
    model = one.model
    space = families()[one.family].SPACE
    configs = list(space.configs(image=one.image, channels=one.channels, classes=model["classes"]))
    found = [(config, counted(config)) for config in spread(configs, 0)[:MOST]]
    return [
        candidate(config, params=figures.params, macs=figures.macs)
        for config, figures in found
        if figures is not None
    ]
