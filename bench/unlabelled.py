"""A study: ways to learn from pictures alone, and what features tell of classes on the way.

    python bench/unlabelled.py attmask|sit DATA [--out FOLDER] [--steps 400] [--tuned 100]

A small DeiT with patches of 4 pixels learns the pictures of DATA, whose labels it does not see.
"attmask" compares which patches are hidden from the student (arXiv 2203.12719): the most attended
ones, the same with some shown again, random ones, rectangles, the least attended ones. "sit"
compares painting hidden groups of pixels, contrast of views, and both (arXiv 2104.03602). At equal
steps, 20 nearest neighbours and a linear model on frozen features name the validation images, also
before the first step. With --tuned each network then learns the labels for so many steps, as does
one from scratch, for as many and for as many as pretraining and these steps compute together.
Results are in FOLDER/METHOD.json, tables and a picture beside them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arms import Figures, curves, finished, table

from vitrail import checkpoint
from vitrail.models import resolve
from vitrail.recipes.defaults import default
from vitrail.recipes.pretraining import lengthened, usual_pretraining
from vitrail.recipes.recipe import Data, Recipe, changed
from vitrail.run.before import model_json
from vitrail.run.probing import told
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View

SMALL = {
    "image": (16, 16), "patch": 4, "dim": 48, "depth": 3, "heads": 3, "hidden": 96,
    "drop_path": 0.0,
}  # fmt: skip
LOOKS = 4
# A step without labels computes some three times what one with labels does: forward and backward
# passes of two views, a forward pass of the teacher, and small views.
COSTS = 3
COMMON = ["steps.batch=128", "optimizer.lr=0.002"]
TEACHING = [
    *COMMON, "objective.teaching.hidden=128", "objective.teaching.momentum=0.98",
    "objective.teaching.held=0.5",
]  # fmt: skip
PAINTING = [*COMMON, "objective.hidden=256", "objective.momentum=0.98"]
ARMS = {
    "attmask": {
        name: [f"objective.strategy={name}", *TEACHING]
        for name in ("random", "block", "high", "hint", "low")
    },
    "sit": {
        "painting and contrast": PAINTING,
        "painting": [*PAINTING, "objective.contrast=0"],
        "contrast": [*PAINTING, "objective.repaint=0"],
    },
}
SCRATCH = {"from scratch": 0, "from scratch, as long": COSTS}


@dataclass(frozen=True, eq=False)
class Study:
    """The pictures, the numbers of steps without and with labels, and where results go."""

    method: str
    images: Read
    steps: int
    tuned: int
    out: Path

    @property
    def data(self) -> Data:
        """Return how the pictures are read and normalised."""
        workshop = self.images.workshop
        spec = Data(self.images.inspection.source.origin)
        return workshop.data(spec, SMALL["image"], workshop.split.channels)

    def config(self, classes: int) -> Any:
        """Return the network, with a head for so many classes."""
        channels = self.images.workshop.split.channels
        return resolve("deit_tiny", channels=channels, classes=classes, **SMALL)

    def pretrained(self, words: list[str], seed: int, folder: Path) -> Figures:
        """Pretrain, and return what features tell at the start and after each part of the steps,
        and what a tuning makes of them."""
        workshop, total = self.images.workshop, self.steps
        images = len(workshop.split.train)
        recipe = usual_pretraining(
            self.method, self.config(0), self.data, images=images, total=total, device="cpu",
            seed=seed,
        )  # fmt: skip
        recipe = lengthened(changed(recipe, words), total, images)
        found: Figures = {}
        for look in range(LOOKS + 1):
            mark = round(total * look / LOOKS)
            model = workshop.train(recipe, folder, mark).best
            seen = told(model, recipe, workshop)
            assert seen is not None
            found[f"neighbours, step {mark}"] = seen.knn
            if look in (0, LOOKS):
                found[f"linear, step {mark}"] = seen.linear
        if self.tuned:
            file = folder / "weights.safetensors"
            meta = {"config": model_json(model.config)}  # pyright: ignore
            checkpoint.save(file, model.state_dict(), metadata=meta)
            found["tuned"] = self.labelled(seed, self.tuned, folder / "tuned", str(file))["tuned"]
        return found

    def labelled(self, seed: int, total: int, folder: Path, file: str | None = None) -> Figures:
        """Learn the labels for so many steps, from the weights of a file or from scratch; returns
        how many of the validation images are told."""
        workshop = self.images.workshop
        classes, images = len(workshop.split.classes), len(workshop.split.train)
        recipe: Recipe = default(
            self.config(classes), self.data, images=images, total=total, seed=seed
        )
        recipe = replace(recipe, pretrained=file, steps=replace(recipe.steps, batch=128))
        outcome = workshop.train(recipe, folder, total)
        return {"tuned": workshop.better(outcome, recipe)[1].main}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=[*ARMS])
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--out", type=Path, default=Path("bench-run/unlabelled"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--tuned", type=int, default=0, help="steps with labels, 0 for none")
    parser.add_argument("--arms", help="some of them, with commas between")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    method, arms = options.method, ARMS[options.method]
    images = read(Data(options.data), Hardware("cpu"), View())
    study = Study(method, images, options.steps, options.tuned, options.out)
    if options.arms:
        arms = {arm: arms[arm] for arm in options.arms.split(",")}

    def pretrain(arm: str, seed: int) -> Figures:
        folder = options.out / f"{method}-{arm}-{seed}".replace(" ", "-")
        return study.pretrained(arms[arm], seed, folder)

    def scratch(arm: str, seed: int) -> Figures:
        folder = options.out / f"{method}-{arm}-{seed}".replace(" ", "-")
        return study.labelled(seed, options.tuned + SCRATCH[arm] * options.steps, folder)

    found = finished(options.out / f"{method}.json", list(arms), options.seeds, pretrain)
    shown = table(found, next(iter(arms)))
    if options.tuned:
        plain = finished(options.out / f"{method}-scratch.json", [*SCRATCH], options.seeds, scratch)
        both = {arm: [{"tuned": one["tuned"]} for one in each]
                for arm, each in {**plain, **found}.items()}  # fmt: skip
        shown += "\n\n" + table(both, "from scratch, as long")
    (options.out / f"{method}.md").write_text(shown)
    marks = [round(options.steps * look / LOOKS) for look in range(LOOKS + 1)]
    across = {f"neighbours, step {mark}": float(mark) for mark in marks}
    (options.out / f"{method}.svg").write_text(curves(found, across, "steps"))
    print(shown)


if __name__ == "__main__":
    main()
