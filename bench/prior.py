"""How much each family learns in the same time: the order in which `fit` tries them.

    python bench/prior.py [--seconds 20] [--images 28] [family ...]

Trains one small model of every family, of a size that suits the time, on the bundled sample,
and writes its validation accuracy to vitrail/search/prior.json. Families that are named are
measured again, the others keep their figure.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import vitrail.search.prior
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.measure.machine import machine
from vitrail.models import families, small_configs
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data
from vitrail.run.subject import counted
from vitrail.run.workshop import Workshop
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.fitness import fitness
from vitrail.search.timing import training_rate


def suited(family: str, side: int, images: int, seconds: float) -> Candidate:
    """The config whose number of passes suits the time best, of a spread of sizes."""
    found = []
    for config in small_configs(family, image=(side, side), channels=1, classes=10):
        figures = counted(config)
        if figures is not None:
            found.append(candidate(config, params=figures.params, macs=figures.macs))
    found.sort(key=lambda c: c.macs)
    spread = found[:: max(1, math.ceil(len(found) / 6))]
    timed = [replace(c, rate=training_rate(c, batch=64)) for c in spread]
    return max(timed, key=lambda c: fitness(c, images, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--images", type=int, default=28, help="side of the images in pixels")
    parser.add_argument("families", nargs="*")
    options = parser.parse_args()
    source = open_source("fashion-sample")
    workshop = Workshop(divide(inspect(source, progress=False)), device="cpu")
    images = len(workshop.split.train)
    file = vitrail.search.prior.MEASURED
    known = json.loads(file.read_text()) if file.is_file() else {}
    accuracy = known.get("accuracy", {})
    for family in options.families or list(families()):
        one = suited(family, options.images, images, options.seconds)
        batch = batch_size(images, config=one.config)
        steps = max(1, int((one.rate or 1.0) * options.seconds / batch))
        recipe = default(
            one.config,
            workshop.data(Data("fashion-sample"), one.image, 1),
            images=images,
            total=steps,
        )
        with tempfile.TemporaryDirectory() as folder:
            outcome = workshop.train(recipe, Path(folder), steps)
            _, scores = workshop.better(outcome, recipe)
        accuracy[family] = round(scores.main, 4)
        print(f"{family:18} {100 * scores.main:5.1f} %  {steps:5} steps  {one.name}", flush=True)
    facts = known | {
        "data": f"fashion-sample, {images} images of {options.images} pixels",
        "seconds": options.seconds,
        "machine": machine(),
        "accuracy": dict(sorted(accuracy.items(), key=lambda item: -item[1])),
    }
    file.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
