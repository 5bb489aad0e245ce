"""A study: half of the patches in each step, for as many epochs and for as long as with all.

    python bench/equal_time.py [DATA] [--out FOLDER] [--seeds 3] [--epochs 4]

A small ViT of 196 patches of 2 pixels learns DATA (by default the bundled sample) with all patches,
with half of them in each step (PatchDropout, arXiv 2208.07220) for as many epochs, and with half
for as many steps as take the time of all. How many times as fast a step is with half is measured
first, by steps in turns. Each is asked about the test images with all patches. Results are in
FOLDER/equal-time.json and a table beside it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from arms import Figures, finished, for_epochs, table

from vitrail.methods import PatchDropout
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View

MODEL = [
    "model=vit_ti16", "model.image=28,28", "model.patch=2", "model.dim=48", "model.depth=3",
    "model.heads=3", "model.hidden=96", "model.pool=mean",
]  # fmt: skip
HALF = (PatchDropout(0.5),)
ARMS = ("all patches", "half, equal epochs", "half, equal time")
TURNS, STEPS = 9, 10


def gained(recipe: Recipe, images: Read) -> float:
    """How many times as fast a step is with half of the patches, the median of turns."""
    workshop, ratios = images.workshop, []
    short = replace(recipe, steps=replace(recipe.steps, total=TURNS * STEPS + 1))
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(TURNS):
            spent = []
            for name, methods in (("all", ()), ("half", HALF)):
                start = time.perf_counter()
                workshop.train(
                    replace(short, methods=methods), Path(folder) / name, (turn + 1) * STEPS
                )
                spent.append(time.perf_counter() - start)
            ratios.append(spent[0] / spent[1])
    return median(ratios[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--out", type=Path, default=Path("bench-run/equal-time"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images = read(Data(options.data), Hardware("cpu"), View())
    recipe = for_epochs(MODEL, options.data, images, options.epochs)
    known = options.out / "gained.json"
    if not known.is_file():
        known.write_text(json.dumps(gained(recipe, images)))
    times = json.loads(known.read_text())
    print(f"a step with half of the patches is {times:.2f} times as fast")

    def train(arm: str, seed: int) -> Figures:
        steps = round(recipe.steps.total * times) if arm == ARMS[2] else recipe.steps.total
        own = replace(
            recipe, seed=seed, methods=() if arm == ARMS[0] else HALF,
            steps=replace(recipe.steps, total=steps),
        )  # fmt: skip
        workshop = images.workshop
        model = workshop.train(own, options.out / f"{arm}-{seed}", steps).best
        outputs = judge(model, own, workshop.split.test, workshop).outputs
        return {"right answers": own.task.scores(outputs).main}

    told = table(finished(options.out / "equal-time.json", ARMS, options.seeds, train), ARMS[0])
    (options.out / "table.md").write_text(told)
    print(told)


if __name__ == "__main__":
    main()
