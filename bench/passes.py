"""Over how many passes a family learns best: its sizes, each trained for the same time.

    python bench/passes.py DATA [--family airbench] [--seconds 300] [--sizes 5] [--side 32]
                                [--macs 15M,60M]

A larger network sees fewer images in a given time. Each size is trained with the recipe of `fit`
for the seconds (its rate is measured first), and the table tells the passes over the training
images beside the accuracy on the validation part, by an image alone and by both of its sides. The
passes of the best, divided by the usual number, belong into `passes` of vitrail/search/prior.json.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.methods import BothSides
from vitrail.models import small_configs
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data
from vitrail.run.subject import counted
from vitrail.run.workshop import Workshop
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.fitness import passes
from vitrail.search.rungs import EFFICIENCY
from vitrail.search.timing import paced
from vitrail.units import parse_count


def sizes(family: str, split, side: int, most: int, macs: tuple[float, float]) -> list[Candidate]:
    """Return up to `most` configs of a family, evenly spread over the multiply-adds `macs`."""
    found = []
    for config in small_configs(
        family, image=(side, side), channels=split.channels, classes=len(split.classes)
    ):
        figures = counted(config)
        if figures is not None and macs[0] <= figures.macs <= macs[1]:
            found.append(candidate(config, params=figures.params, macs=figures.macs))
    found.sort(key=lambda c: c.macs)
    step = max(1.0, (len(found) - 1) / max(1, most - 1))
    return [found[round(at * step)] for at in range(min(most, len(found)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--family", default="airbench")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--sizes", type=int, default=5)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--macs", default="1,1000G", help="the least and the most, as 15M,60M")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    workshop = Workshop(divide(inspect(open_source(options.data))), device="cpu")
    images = len(workshop.split.train)
    usual = passes(images)
    print(f"{images:,} training images, {options.seconds:g} s each; usual passes {usual:.1f}")
    low, high = map(parse_count, options.macs.split(","))
    for one in sizes(options.family, workshop.split, options.side, options.sizes, (low, high)):
        batch = batch_size(images, config=one.config)
        one = paced(one, batch=batch)
        steps = max(1, int(EFFICIENCY * (one.rate or 1.0) * options.seconds / batch))
        data = workshop.data(Data(options.data), one.image, workshop.split.channels)
        recipe = default(
            one.config, data, images=images, total=steps, seed=options.seed,
            precision=one.precision,
        )  # fmt: skip
        recipe = replace(recipe, schedule=replace(recipe.schedule, hold=steps // 6))
        with tempfile.TemporaryDirectory() as folder:
            outcome = workshop.train(recipe, Path(folder), steps)
            model, scores = workshop.better(outcome, recipe)
            both = workshop.validate(BothSides().apply(model), recipe)
        seen = steps * batch / images
        print(
            f"{one.name:40} {one.macs / 1e6:7.1f} M  {seen:5.1f} passes  "
            f"{100 * scores.main:5.2f} %  "
            f"{100 * both.main:5.2f} % by both sides  {one.precision}",
            flush=True,
        )


if __name__ == "__main__":
    main()
