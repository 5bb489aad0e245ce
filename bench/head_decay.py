"""A study: a head that decays faster than the rest, and what features tell of other classes.

    python bench/head_decay.py FOLDER [--out FOLDER] [--seeds 3] [--epochs 4]

FOLDER has a folder for each class. A small ViT learns the first six classes by name with a weight
decay of 0.03 everywhere but in the head, which decays by 0.03, 3 or 30: 3 is what "Scaling Vision
Transformers" (arXiv 2106.04560) chose for far longer trainings, and 30 makes up for some of that.
Then the other classes are told by regularised least squares on its frozen features, from five and
ten labels of each, five draws. Results are in FOLDER/head_decay.json and a table beside it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from arms import Figures, finished, for_epochs, table

from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.judge import judge
from vitrail.run.probing import embedded
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View
from vitrail.tasks.fewshot import few_shots

WORDS = [
    "model=vit_ti16", "model.image=32,32", "model.patch=4", "model.dim=48", "model.depth=3",
    "model.heads=3", "model.hidden=96", "model.pool=mean", "optimizer.weight_decay=0.03",
]  # fmt: skip
FIRST, SHOTS, DRAWS = 6, (5, 10), 5
ARMS = {"0.03": 0.03, "3": 3.0, "30": 30.0}


def divided(folder: Path, out: Path) -> tuple[str, str]:
    """Write tables of the first classes and of the others; returns where they are."""
    classes = sorted(one for one in folder.iterdir() if one.is_dir())
    files = []
    for name, some in (("first", classes[:FIRST]), ("others", classes[FIRST:])):
        rows = [f"{image.resolve()},{own.name}" for own in some for image in sorted(own.iterdir())]
        files.append(out / f"{name}.csv")
        files[-1].write_text("\n".join(["image,label", *rows]))
    return str(files[0]), str(files[1])


def told(recipe: Recipe, images: Read, others: Read, folder: Path) -> Figures:
    """Train, and return test accuracy and what features tell of the other classes."""
    workshop, image = images.workshop, recipe.data.image
    model = workshop.train(recipe, folder, recipe.steps.total).best
    verdict = judge(model, recipe, workshop.split.test, workshop)
    found = {"test accuracy": recipe.task.scores(verdict.outputs).main}
    parts = [others.workshop.pixels(part, image, recipe.data.channels) for part in ("train", "val")]
    known, asked = (embedded(model, recipe, others.workshop, part) for part in parts)
    truth, wanted = (part.labels for part in parts)
    for one in few_shots(known, truth, asked, wanted, shots=SHOTS, draws=DRAWS, seed=0):
        found[f"others, {one.shots} labels"] = one.linear
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench-run/head-decay"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    first, second = divided(options.folder, options.out)
    images, others = (read(Data(one), Hardware("cpu"), View()) for one in (first, second))
    recipe = for_epochs(WORDS, first, images, options.epochs)

    def train(arm: str, seed: int) -> Figures:
        optimizer = replace(recipe.optimizer, head_decay=ARMS[arm])
        own = replace(recipe, optimizer=optimizer, seed=seed)
        return told(own, images, others, options.out / f"{arm}-{seed}")

    found = finished(options.out / "head_decay.json", list(ARMS), options.seeds, train)
    shown = table(found, next(iter(ARMS)))
    (options.out / "table.md").write_text(shown)
    print(shown)


if __name__ == "__main__":
    main()
