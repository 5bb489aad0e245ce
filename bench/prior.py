"""How much each family learns in the same time: the order in which `fit` tries them.

    python bench/prior.py DATA --name NAME [--side 28] [--seconds 20] [--threads N] [family ...]

Trains one small model of every family, of a size that suits the time, on a folder of images or a
built-in name, and writes its validation accuracy to vitrail/search/prior.json, under the data's
name. Families that were measured on it are left out, unless they are named; so a run that was
stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch

import vitrail.search.prior
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import Split, divide
from vitrail.errors import VitrailError
from vitrail.measure.machine import machine
from vitrail.models import families, small_configs
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data
from vitrail.run.subject import counted
from vitrail.run.workshop import Workshop
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.fitness import fitness
from vitrail.search.timing import paced


def suited(family: str, side: int, split: Split, seconds: float) -> Candidate | None:
    """The config whose number of passes suits the time best, of a spread of sizes."""
    found = []
    for config in small_configs(
        family, image=(side, side), channels=split.channels, classes=len(split.classes)
    ):
        figures = counted(config)
        if figures is not None:
            found.append(candidate(config, params=figures.params, macs=figures.macs))
    found.sort(key=lambda c: c.macs)
    spread = found[:: max(1, math.ceil(len(found) / 6))]
    images = len(split.train)
    timed = [paced(one, batch=batch_size(images, config=one.config)) for one in spread]
    return max(timed, key=lambda one: fitness(one, images, seconds), default=None)


def learned(one: Candidate, workshop: Workshop, spec: str, seconds: float) -> tuple[float, int]:
    """The validation accuracy after `seconds` of training, and the steps in them."""
    split = workshop.split
    images = len(split.train)
    batch = batch_size(images, config=one.config)
    steps = max(1, int((one.rate or 1.0) * seconds / batch))
    data = workshop.data(Data(spec), one.image, split.channels)
    recipe = default(one.config, data, images=images, total=steps, precision=one.precision)
    with tempfile.TemporaryDirectory() as folder:
        outcome = workshop.train(recipe, Path(folder), steps)
        return workshop.better(outcome, recipe)[1].main, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("families", nargs="*")
    parser.add_argument("--name", required=True, help="what the data are called in the file")
    parser.add_argument("--side", type=int, default=28, help="side of the images in pixels")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--file", type=Path, default=vitrail.search.prior.MEASURED)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    workshop = Workshop(divide(inspect(open_source(options.data), progress=False)), device="cpu")
    facts = json.loads(options.file.read_text())
    before = facts["sets"].get(options.name, {}).get("accuracy", {})
    accuracy = {k: v for k, v in before.items() if k not in options.families}
    for family in options.families or [f for f in families() if f not in accuracy]:
        try:
            one = suited(family, options.side, workshop.split, options.seconds)
            if one is None:
                continue
            main, steps = learned(one, workshop, options.data, options.seconds)
        except VitrailError as error:
            print(f"{family:18} {error}", flush=True)
            continue
        accuracy[family] = round(main, 4)
        print(f"{family:18} {100 * main:5.1f} %  {steps:5} steps  {one.name}", flush=True)
        facts["sets"][options.name] = {
            "images": len(workshop.split.train),
            "side": options.side,
            "seconds": options.seconds,
            "threads": options.threads,
            "machine": machine(),
            "accuracy": dict(sorted(accuracy.items(), key=lambda item: -item[1])),
        }
        options.file.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
