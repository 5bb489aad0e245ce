"""A study: how much a stem of patches, and one of convolutions, depend on how they are trained.

    python bench/stems.py [DATA] [--out FOLDER] [--seeds 3] [--passes 4]

The two stems are those of `vitrail study early-convolutions` (ViT_C, arXiv 2106.14881): patches of
4 pixels, or two 3x3 convolutions of stride 2 and one block fewer. Both are trained for half of the
passes, for all, and for twice as many; by AdamW and by SGD; and by each of them at the usual rate,
at a quarter and at four times of it. That is what the paper's three experiments ask: what is lost
by a short training, by SGD, and by a rate that nobody tuned. Results are in FOLDER/stems.json and
a table beside it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arms import Figures, accuracy, finished, table

from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View
from vitrail.study.plans import PLANS
from vitrail.training.optimizer import AdamW, Sgd

PLAN = PLANS["early-convolutions"]
STEMS = ("patches", "convolutions")
# AdamW at its usual rate for 64 images, and the paper's SGD for the smallest ViT, by the batch.
ADAMW, MOMENTUM = AdamW(lr=7e-4), Sgd(lr=0.06, weight_decay=1.3e-5)


@dataclass(frozen=True)
class Way:
    """How to train: an optimizer, and factors on its rate and on the passes over the images."""

    optimizer: Any
    rate: float = 1.0
    passes: float = 1.0


WAYS = {
    "AdamW": Way(ADAMW),
    "AdamW, rate / 4": Way(ADAMW, rate=0.25),
    "AdamW, rate x 4": Way(ADAMW, rate=4.0),
    "AdamW, half": Way(ADAMW, passes=0.5),
    "AdamW, twice": Way(ADAMW, passes=2.0),
    "SGD": Way(MOMENTUM),
    "SGD, rate / 4": Way(MOMENTUM, rate=0.25),
    "SGD, rate x 4": Way(MOMENTUM, rate=4.0),
}


def recipe_of(stem: str, way: Way, images: Read, data: Data, passes: float) -> Recipe:
    """Return the recipe of a stem that is trained in one of the ways."""
    split = images.workshop.split
    config = PLAN.config(f"{stem} by AdamW", data.image, split.channels, len(split.classes))
    n = len(split.train)
    total = round(passes * way.passes * (n // 64))
    made = default(config, data, images=n, total=total)
    return replace(made, optimizer=replace(way.optimizer, lr=way.rate * way.optimizer.lr))


def asked(values: dict[str, float]) -> Figures:
    """Return what the paper asks, of the accuracies of a stem with one seed."""
    ends = ("", ", rate / 4", ", rate x 4")
    rates = {name: [values[f"{name}{end}"] for end in ends] for name in ("AdamW", "SGD")}
    return {
        "as usual": values["AdamW"],
        "half of the passes, not twice": values["AdamW, half"] - values["AdamW, twice"],
        "SGD in place of AdamW": max(rates["SGD"]) - max(rates["AdamW"]),
        "worst rate of AdamW": min(rates["AdamW"]) - max(rates["AdamW"]),
        "worst rate of SGD": min(rates["SGD"]) - max(rates["SGD"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--out", type=Path, default=Path("bench-run/stems"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--passes", type=float, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images = read(Data(options.data), Hardware("cpu"), View())
    size = PLAN.image(images.inspection)
    data = images.workshop.data(Data(options.data), size, images.workshop.split.channels)

    def train(arm: str, seed: int) -> Figures:
        stem, way = arm.split(": ")
        recipe = recipe_of(stem, WAYS[way], images, data, options.passes)
        return {"accuracy": accuracy(replace(recipe, seed=seed), images)}

    arms = [f"{stem}: {way}" for stem in STEMS for way in WAYS]
    found = finished(options.out / "stems.json", arms, options.seeds, train)
    each = {
        stem: [
            {way: found[f"{stem}: {way}"][seed]["accuracy"] for way in WAYS}
            for seed in range(options.seeds)
        ]
        for stem in STEMS
    }
    ways = table(each, STEMS[0])
    told = table({stem: [asked(one) for one in seeds] for stem, seeds in each.items()}, STEMS[0])
    (options.out / "table.md").write_text(f"{ways}\n\n{told}\n")
    print(ways, told, sep="\n\n")


if __name__ == "__main__":
    main()
