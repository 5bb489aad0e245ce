"""Which settings pay in a short training of a small network, at equal steps.

    python bench/short.py DATA ... [--dims 32,96,128] [--passes 20] [--seeds 3] [--out FILE]

An AirBench learns each data set with the recipe of `fit`, and with one setting changed at a time.
Arms of a seed see the same images in the same order, so differences are paired by seed; the
interval is Student's over seeds. Answers are of the validation part. What was measured is kept in
`--out`, a file of JSON lines, and gone on with.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.models import create
from vitrail.objectives import CrossEntropy
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.workshop import Workshop
from vitrail.training.schedule import Linear

Change = Callable[[Recipe], Recipe]


def augmented(**changes) -> Change:
    """Return a change of the augmentation."""
    return lambda recipe: replace(recipe, augment=replace(recipe.augment, **changes))


def smoothed(share: float) -> Change:
    """Return a change of the label smoothing."""
    return lambda recipe: replace(recipe, objective=CrossEntropy(share))


def all_of(*changes: Change) -> Change:
    """Return changes, one after the other."""

    def change(recipe: Recipe) -> Recipe:
        for one in changes:
            recipe = one(recipe)
        return recipe

    return change


def held(share: float) -> Change:
    """Return a change of when the rate begins to fall."""
    return lambda recipe: replace(
        recipe, schedule=replace(recipe.schedule, hold=int(share * recipe.steps.total))
    )


def rated(factor: float) -> Change:
    """Return a change of the learning rate."""
    return lambda recipe: replace(
        recipe, optimizer=replace(recipe.optimizer, lr=factor * recipe.optimizer.lr)
    )


ARMS: dict[str, Change] = {
    "usual": lambda recipe: recipe,
    "smoothing 0.2": smoothed(0.2),
    "flips in turns": augmented(flips="alternating"),
    "mirrored border": augmented(border="mirrored"),
    "shift of 2 px": lambda recipe: augmented(shift=2 / max(recipe.config.image))(recipe),
    "erasing 0.25": augmented(erasing=0.25),
    "smoothing, turns, border": all_of(
        smoothed(0.2), augmented(flips="alternating", border="mirrored")
    ),
    "a line down": lambda recipe: replace(
        recipe, schedule=Linear(recipe.schedule.warmup, recipe.schedule.hold)
    ),
    "down from a fifth on": held(0.2),
    "down from the middle on": held(0.5),
    "without flips": augmented(flip=0.0),
    "half of the rate": rated(0.5),
    "twice the rate": rated(2.0),
}


def trained(arm: str, seed: int, workshop: Workshop, spec: str, options) -> float:
    """Train one arm with one seed; returns validation accuracy."""
    split = workshop.split
    side = options.side
    config = create(
        "airbench94", dims=tuple(map(int, options.dims.split(","))), image=(side, side),
        channels=split.channels, classes=len(split.classes),
    ).config  # fmt: skip
    images = len(split.train)
    steps = int(options.passes * images / batch_size(images, config=config))
    data = workshop.data(Data(spec), config.image, split.channels)
    recipe = default(
        config, data, images=images, total=steps, seed=seed, precision=options.precision
    )
    recipe = replace(recipe, schedule=replace(recipe.schedule, hold=int(0.35 * steps)))
    recipe = ARMS[arm](recipe)
    with tempfile.TemporaryDirectory() as folder:
        outcome = workshop.train(recipe, Path(folder), steps)
        _, scores = workshop.better(outcome, recipe)
    return scores.main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--dims", default="32,96,128")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--passes", type=float, default=20.0)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("short.jsonl"))
    options = parser.parse_args()
    arms, known = list(dict.fromkeys(["usual", *options.arms])), {}
    if options.out.is_file():
        for line in options.out.read_text().splitlines():
            one = json.loads(line)
            known[one["data"], one["arm"], one["seed"]] = one["accuracy"]
    for spec in options.data:
        workshop = Workshop(divide(inspect(open_source(spec))), device="cpu")
        for seed in range(options.seeds):
            for arm in arms:
                if (spec, arm, seed) in known:
                    continue
                found = known[spec, arm, seed] = trained(arm, seed, workshop, spec, options)
                told = {"data": spec, "arm": arm, "seed": seed, "accuracy": found}
                with options.out.open("a") as file:
                    file.write(json.dumps(told) + "\n")
        print(f"{spec}, {len(workshop.split.train):,} training images, {options.passes:g} passes")
        usual = np.array([known[spec, "usual", seed] for seed in range(options.seeds)])
        for arm in arms:
            gain = 100 * (np.array([known[spec, arm, s] for s in range(options.seeds)]) - usual)
            error = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
            mean = 100 * usual.mean() + gain.mean()
            print(f"  {arm:26} {mean:5.2f} %   {gain.mean():+5.2f} ± {error:.2f}", flush=True)


if __name__ == "__main__":
    main()
