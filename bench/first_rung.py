"""What a training from published weights gains by how it begins: head, norms, rate, at equal steps.

    python bench/first_rung.py DATA WEIGHTS [--side 64] [--steps 100] [--seeds 2]
        [--rates 5e-4,2e-4]

DATA is a folder of class folders, WEIGHTS a file that `vitrail.identify` knows. Each arm starts
with a random head or with the linear model on features, with BatchNorms that move or that stay
still, and is scored on the validation part; the test part stays closed. Prints JSON lines: the
linear model on features, then every arm and seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.models import identify
from vitrail.models.trunk.catalog import resolve
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.run.workshop import Workshop


def arms(rates: list[str]) -> list[list[str]]:
    """The settings of each arm."""
    heads, norms = ("head=random", "head=linear"), ("methods=[]", "methods=still_norms")
    return [[h, n, f"optimizer.lr={rate}"] for h in heads for n in norms for rate in rates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("weights")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rates", default="5e-4,2e-4")
    options = parser.parse_args()
    workshop = Workshop(divide(inspect(open_source(options.data), progress=False)))
    classes, image = len(workshop.split.classes), (options.side, options.side)
    config = resolve(identify(options.weights).config, image=image, classes=classes)
    data = workshop.data(Data(options.data), image, 3, options.weights)
    recipe = default(
        config, data, images=len(workshop.split.train), total=options.steps,
        pretrained=options.weights, device=workshop.device,
    )  # fmt: skip
    began = time.monotonic()
    start = workshop.validate(workshop.model(amend(recipe, ["methods=[]"])), recipe)
    told = {"arm": "linear model on features", "accuracy": start.main, "n": start.n}
    print(json.dumps(told | {"seconds": round(time.monotonic() - began, 1)}), flush=True)
    for settings in arms(options.rates.split(",")):
        for seed in range(options.seeds):
            one: Recipe = replace(amend(recipe, settings), seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                outcome = workshop.train(one, Path(folder), options.steps)
                _, scores = workshop.better(outcome, one)
            print(json.dumps({"arm": settings, "seed": seed, "accuracy": scores.main}), flush=True)


if __name__ == "__main__":
    main()
