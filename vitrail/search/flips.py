"""Whether left and right may be exchanged: measured, since the labels decide and not the method.

A mirrored cat is a cat; a mirrored arrow, digit or letter is something else. One candidate is
trained for the same few steps with flips and without. Flips are left out where the network
without them is clearly better, or where it no longer recognises mirrored images and is not worse.
Whichever training is kept is the beginning of that candidate's race.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from vitrail.recipes.recipe import Recipe
from vitrail.report.ahead import paired
from vitrail.run.view import View
from vitrail.run.watch import checkpoints
from vitrail.run.workshop import Workshop

# Validation images that are looked at, and how much worse mirrored ones must be recognised for
# left and right to mean something.
LOOK_AT = 2000
DROP = 0.1


@dataclass(frozen=True)
class Flips:
    """What was decided, and the shares of validation images on which it rests."""

    flip: float
    with_flips: float
    without: float
    mirrored: float
    n: int

    @property
    def sentence(self) -> str:
        """Say what was decided and why."""
        figures = (
            f"after as many steps {self.without:.1%} of {self.n} validation images were right "
            f"without flips, {self.with_flips:.1%} with them, and {self.mirrored:.1%} of mirrored "
            "ones without them"
        )
        if self.flip:
            return f"left-right flips are used: {figures}"
        return f"left-right flips are not used, since left and right differ here: {figures}"


class Mirrored(nn.Module):
    """A model that sees its images mirrored."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image.flip(-1))


def decide(
    workshop: Workshop, recipe: Recipe, run: Path, name: str, until: int, view: View
) -> Flips:
    """Train the candidate `name` up to step `until` with flips and without; keep the better.

    Its snapshots then lie where the race looks for them.
    """
    kept, other = checkpoints(run, name), checkpoints(run, f"{name}-without-flips")
    plain = replace(recipe, augment=replace(recipe.augment, flip=0.0))
    view.phase("measuring whether left-right flips help")
    right: list[list[bool]] = []
    for one, folder in ((recipe, kept), (plain, other)):
        outcome = workshop.train(one, folder, until, lambda step, *_: view.step(name, step, until))
        model, _ = workshop.better(outcome, one, LOOK_AT)
        asked = [model, Mirrored(model)] if one is plain else [model]
        for network in asked:
            outputs = workshop.outputs(network, one, workshop.watched(one, LOOK_AT))
            right.append(one.task.right(outputs))
    flipped, straight, mirrored = right
    better = paired(straight, flipped)
    differs = paired(straight, mirrored).low > DROP
    without = better.low > 0 or (differs and better.high > 0 and better.middle > -0.01)
    if without:
        shutil.rmtree(kept)
        other.rename(kept)
    else:
        shutil.rmtree(other)
    with_flips, alone, turned = (sum(r) / len(r) for r in (flipped, straight, mirrored))
    flip = 0.0 if without else recipe.augment.flip
    return Flips(flip, with_flips, alone, turned, len(flipped))
