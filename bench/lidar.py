"""A study: which parts of RangeViT tell thin and small things, on synthetic scans.

    python bench/lidar.py [--seeds 3] [--steps 300] [--drives 8] [--columns 256] [--out lidar.json]

A ray caster makes the scans (`vitrail.data.lidar.cast`), so nothing here says how good a network
is on any street. Arms differ in stem, decoder, the stem's map behind the decoder ("skip"), patches,
and the refiner of points; all take as many steps on the same scans. The test part chooses nothing.
What is finished is in the file, so a stopped study goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vitrail.config import to_json
from vitrail.data.lidar.batches import Moves
from vitrail.data.lidar.cast import Sensor, write_street
from vitrail.models import config_json, rangevit
from vitrail.objectives import FocalLovasz
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware
from vitrail.run.scans import ScanWorkshop, read_scans
from vitrail.run.view import View
from vitrail.study.effect import effects
from vitrail.tasks import Lidar, maps
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule
from vitrail.training.steps import Steps

SIZES = {"dim": 64, "depth": 4, "heads": 4, "hidden": 128, "drop_path": 0.0}
PATCH, CONV = rangevit.PatchStem(), rangevit.ConvStem(32, 16)
LINEAR, UP = rangevit.LinearDecoder(), rangevit.UpDecoder(32, skip=False)
SKIP, PIXELS = rangevit.UpDecoder(32), rangevit.PixelHead()
ARMS = {
    "patch stem, linear decoder": {"stem": PATCH, "decoder": LINEAR, "points": PIXELS},
    "patch stem, up-conv decoder": {"stem": PATCH, "decoder": UP, "points": PIXELS},
    "conv stem, up-conv decoder": {"stem": CONV, "decoder": UP, "points": PIXELS},
    "conv stem, up-conv decoder, skip": {"stem": CONV, "decoder": SKIP, "points": PIXELS},
    "the same with refiner": {"stem": CONV, "decoder": SKIP, "points": rangevit.PointHead()},
}
PATCHES = ((2, 8), (4, 16))
BATCH = 4


def recipe_of(
    arm: str, patch: tuple[int, int], workshop: ScanWorkshop, steps: int, seed: int
) -> Recipe:
    """What an arm trains by."""
    projection = workshop.projection
    image = (projection.height, projection.width)
    classes = len(workshop.split.classes)
    config = rangevit.Config(**SIZES, **ARMS[arm], patch=patch, image=image, classes=classes)
    data = workshop.data(Data("street"), image, workshop.split.channels)
    refines = isinstance(config.points, rangevit.PointHead)
    task = Lidar(projection, Moves(0.5, 0.0, 0.0), neighbours=7 if refines else 0)
    return Recipe(
        to_json(config_json(config)), data, Steps(steps, BATCH, ema=None, lean=False),
        optimizer=AdamW(lr=2e-3, weight_decay=0.01), schedule=Schedule(20),
        objective=FocalLovasz(), task=task, seed=seed,
    )  # fmt: skip


def overlaps(
    arm: str, patch: tuple[int, int], workshop: ScanWorkshop, steps: int, seed: int
) -> list[float]:
    """Train an arm to its end and judge it: the overlap of each class on the test scans."""
    recipe = recipe_of(arm, patch, workshop, steps, seed)
    with tempfile.TemporaryDirectory() as scratch:
        outcome = workshop.train(recipe, Path(scratch), steps)
        verdict = judge(outcome.best, recipe, workshop.split.test, workshop)
    return maps.overlaps(verdict.outputs.values.sum(0)).nan_to_num().tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--drives", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("lidar.json"))
    asked = parser.parse_args()
    done: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        street = Path(folder) / "street"
        write_street(street, Sensor(16, asked.columns), drives=asked.drives, scans=20)
        read = read_scans(Data(str(street)), Hardware("cpu"), View(), Lidar())
        for seed in range(asked.seeds):
            for name, arm, patch in arms():
                if f"{name} {seed}" not in done:
                    found = overlaps(arm, patch, read.workshop, asked.steps, seed)
                    done[f"{name} {seed}"] = found
                    asked.out.write_text(json.dumps(done, indent=1))
                print(name, seed, np.round(done[f"{name} {seed}"], 3).tolist(), flush=True)
        told(done, asked.seeds, read.workshop.split.classes)


def arms() -> list[tuple[str, str, tuple[int, int]]]:
    """The arms with their names; of the larger patches only the first arm and that with a skip."""
    larger = [name for name in ARMS if name.endswith(("linear decoder", "skip"))]
    return [
        (f"{arm}, {patch[0]}x{patch[1]}", arm, patch)
        for patch, some in zip(PATCHES, (list(ARMS), larger), strict=True)
        for arm in some
    ]


def told(done: dict[str, Any], seeds: int, classes: Sequence[str]) -> None:
    """Print the mean overlap of each arm, how far it is from the first, and each class's."""
    console, names = Console(width=160), [name for name, *_ in arms()]
    per = {name: np.array([done[f"{name} {seed}"] for seed in range(seeds)]) for name in names}
    values = {name: found.mean(1).tolist() for name, found in per.items()}
    gaps = effects(values, names[0])
    for name in names:
        means = ", ".join(
            f"{label} {share:.1%}" for label, share in zip(classes, per[name].mean(0), strict=True)
        )
        console.print(name, f"{np.mean(values[name]):.1%}", gaps.get(name, ""), means)


if __name__ == "__main__":
    main()
