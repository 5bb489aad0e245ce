"""A study: ways to adapt one trained backbone, the same images for all, several seeds.

    python bench/adapting.py BASE DATA [--seeds 3] [--images 500] [--steps 150] [--out FILE]

BASE is a run folder or a file of weights, DATA a folder of class folders. Of the training part the
first `--images` are learned from, which are a fair sample; the test part is whole. Every way takes
as many steps of the same size. What is finished is in the file, so a stopped study goes on. The
test part chooses nothing here: learning rates are those of `vitrail.recipes.ways`, times `--rate`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vitrail.data.split import Part
from vitrail.models import identify
from vitrail.recipes.base import weights_of
from vitrail.recipes.recipe import Data, Recipe
from vitrail.recipes.ways import WAYS, Start, recipe_of
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, read
from vitrail.run.view import View
from vitrail.run.workshop import Workshop
from vitrail.study.effect import effects

BASELINE = "linear"


def workshop_of(spec: str, images: int) -> Workshop:
    """The data, of whose training part the first images are left."""
    split = read(Data(spec), Hardware("cpu"), View()).workshop.split
    train = split.train
    some = Part(train.source, train.rows[:images], train.digests[:images])
    return Workshop(replace(split, train=some), device="cpu")


def recipe_at(way: str, start: Start, seed: int, steps: int, rate: float) -> Recipe:
    """Return the recipe of a way, its learning rate times `rate`."""
    recipe = recipe_of(way, start, total=steps, seed=seed, device="cpu")
    optimizer: Any = recipe.optimizer
    faster = replace(optimizer, lr=rate * optimizer.lr)
    return replace(recipe, steps=replace(recipe.steps, batch=32), optimizer=faster)


def trained(workshop: Workshop, recipe: Recipe) -> dict[str, Any]:
    """Train by a recipe, and judge what came out."""
    steps = recipe.steps.total
    with tempfile.TemporaryDirectory() as folder:
        outcome = workshop.train(recipe, Path(folder), steps)
        verdict = judge(outcome.best, recipe, workshop.split.test, workshop)
    count = sum(p.numel() for p in outcome.model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in outcome.model.parameters())
    score = recipe.task.scores(verdict.outputs)
    return {
        "accuracy": score.figures["accuracy"], "n": score.n, "trained": count,
        "share": count / whole, "seconds": outcome.seconds,
    }  # fmt: skip


def show(done: dict[str, Any], ways: list[str], seeds: int) -> None:
    """Print means and their differences from the probe, with intervals that hold together."""
    values = {way: [done[f"{way} {seed}"]["accuracy"] for seed in range(seeds)] for way in ways}
    gaps = effects(values, BASELINE)
    table = Table("way", "trained", "share", "test accuracy", "minus linear", "95 % interval")
    for way in ways:
        one, mean = done[f"{way} 0"], sum(values[way]) / seeds
        cells = ["", ""]
        if way in gaps:
            gap = gaps[way]
            cells = [f"{100 * gap.mean:+.1f}", ""]
            if gap.low is not None and gap.high is not None:
                cells[1] = f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
        share = f"{one['share']:.2%}"
        table.add_row(way, f"{one['trained']:,}", share, f"{mean:.1%}", *cells)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base")
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--begin", type=int, default=0, help="The first seed.")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rate", type=float, default=1.0, help="Times the usual learning rates.")
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--out", type=Path, default=Path("adapting.json"))
    asked = parser.parse_args()
    workshop = workshop_of(asked.data, asked.images)
    config: Any = identify(weights_of(asked.base)).config
    config = replace(config, classes=len(workshop.split.classes))
    data = workshop.data(
        Data(asked.data), tuple(config.image), config.channels, weights_of(asked.base)
    )
    start = Start(asked.base, config, data, len(workshop.split.train))
    done = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    ways = [way for way in WAYS if way in asked.only.split(",")]
    for seed in range(asked.begin, asked.seeds):
        for way in ways:
            if f"{way} {seed}" not in done:
                recipe = recipe_at(way, start, seed, asked.steps, asked.rate)
                done[f"{way} {seed}"] = trained(workshop, recipe)
                asked.out.write_text(json.dumps(done, indent=1))
                print(way, seed, f"{done[f'{way} {seed}']['accuracy']:.1%}", flush=True)
    if not asked.begin:
        show(done, ways, asked.seeds)


if __name__ == "__main__":
    main()
