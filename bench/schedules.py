"""A study: patches left out by a schedule in training, and left out when a model is asked.

    python bench/schedules.py [DATA] [--out FOLDER] [--seeds 3] [--epochs 4]

A small ViT with patches of 4 pixels learns DATA (by default the bundled sample) for as many epochs
with all patches, with two fifths of them left out in every step ("fixed"), and by the schedules
"linear" and "cyclic" of PSS (arXiv 2208.09520), whose mean share is about that. Those that stay
have the largest norm. Each is then asked about the test images with shares of 0 to 0.8 left out.
Results are in FOLDER/schedules.json, a table and a picture beside them.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from arms import Figures, curves, finished, for_epochs, table

from vitrail.methods import PSS
from vitrail.methods.pss import Sampled
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View

MODEL = [
    "model=vit_ti16", "model.image=28,28", "model.patch=4", "model.dim=48", "model.depth=3",
    "model.heads=3", "model.hidden=96", "model.pool=mean",
]  # fmt: skip
ARMS = {
    "full": (),
    "fixed": (PSS("fixed", start=0.4),),
    "linear": (PSS("linear"),),
    "cyclic": (PSS("cyclic"),),
}
DROPS = (0.0, 0.2, 0.4, 0.6, 0.8)


def asked_with(model: Any, drop: float) -> Any:
    """The same model, which leaves out a share of the patches when it is asked."""
    sampled = [one for one in model.modules() if isinstance(one, Sampled)]
    if not sampled:
        model = PSS().apply(model)
        sampled = [one for one in model.modules() if isinstance(one, Sampled)]
    for one in sampled:
        one.test_keep = 1 - drop
    return model


def trained(recipe: Recipe, images: Read, folder: Path) -> Figures:
    """Train a recipe to its end; returns test accuracies by the share that is left out."""
    workshop = images.workshop
    model = workshop.train(recipe, folder, recipe.steps.total).best
    pixels = judge(model, recipe, workshop.split.test, workshop).pixels
    found = {}
    for drop in DROPS:
        outputs = workshop.outputs(asked_with(model, drop), recipe, pixels)
        found[f"{drop:g} left out"] = recipe.task.scores(outputs).main
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--out", type=Path, default=Path("bench-run/schedules"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images = read(Data(options.data), Hardware("cpu"), View())
    recipe = for_epochs(MODEL, options.data, images, options.epochs)

    def train(arm: str, seed: int) -> Figures:
        own = replace(recipe, methods=ARMS[arm], seed=seed)
        return trained(own, images, options.out / f"{arm}-{seed}")

    found = finished(options.out / "schedules.json", list(ARMS), options.seeds, train)
    told = table(found, "full")
    (options.out / "table.md").write_text(told)
    across = {f"{drop:g} left out": drop for drop in DROPS}
    picture = curves(found, across, "share of the patches that is left out when it is asked")
    (options.out / "schedules.svg").write_text(picture)
    print(told)


if __name__ == "__main__":
    main()
