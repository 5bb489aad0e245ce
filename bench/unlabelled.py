"""A study: ways to learn from pictures alone, and what features tell of classes on the way.

    python bench/unlabelled.py attmask|sit [DATA] [--out FOLDER] [--seeds 3] [--steps 300]

A small DeiT with patches of 4 pixels learns the pictures of DATA (by default the bundled sample),
whose labels it does not see. "attmask" compares which patches are hidden from the student (arXiv
2203.12719): the most attended ones, the same with some shown again, random ones, the least attended
ones. "sit" compares painting hidden groups of pixels, contrast of views, and both (arXiv
2104.03602). At equal steps, 20 nearest neighbours and a linear model on frozen features name
the validation images. Results are in FOLDER/METHOD.json, a table and a picture beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from arms import Figures, curves, finished, table

from vitrail.models import resolve
from vitrail.recipes.pretraining import usual_pretraining
from vitrail.recipes.recipe import Data, changed
from vitrail.run.probing import told
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View

SMALL = {"image": (28, 28), "patch": 4, "dim": 48, "depth": 3, "heads": 3, "hidden": 96}
LOOKS = 4
TEACHING = ["objective.teaching.hidden=128", "objective.teaching.momentum=0.98"]
ARMS = {
    "attmask": {
        name: [f"objective.strategy={name}", *TEACHING]
        for name in ("random", "high", "hint", "low")
    },
    "sit": {
        "painting and contrast": [],
        "painting": ["objective.contrast=0"],
        "contrast": ["objective.repaint=0"],
    },
}


def trained(
    method: str, words: list[str], images: Read, seed: int, steps: int, folder: Path
) -> Figures:
    """Pretrain, and return what features tell at the start and after each part of the steps."""
    workshop, split = images.workshop, images.workshop.split
    config = resolve("deit_tiny", channels=split.channels, classes=0, **SMALL)
    data = workshop.data(Data(images.inspection.source.origin), SMALL["image"], split.channels)
    recipe = usual_pretraining(
        method, config, data, images=len(split.train), total=steps, device="cpu", seed=seed
    )
    recipe = changed(recipe, [*words, f"steps.total={steps}"])
    found: Figures = {}
    for look in range(LOOKS + 1):
        mark = round(steps * look / LOOKS)
        seen = told(workshop.train(recipe, folder, mark).best, recipe, workshop)
        assert seen is not None
        found[f"neighbours, step {mark}"] = seen.knn
        if look == LOOKS:
            found[f"linear, step {mark}"] = seen.linear
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=[*ARMS])
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--out", type=Path, default=Path("bench-run/unlabelled"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--arms", help="some of them, with commas between")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images, arms = read(Data(options.data), Hardware("cpu"), View()), ARMS[options.method]
    if options.arms:
        arms = {arm: arms[arm] for arm in options.arms.split(",")}

    def train(arm: str, seed: int) -> Figures:
        folder = options.out / f"{options.method}-{arm}-{seed}".replace(" ", "-")
        return trained(options.method, arms[arm], images, seed, options.steps, folder)

    found = finished(options.out / f"{options.method}.json", list(arms), options.seeds, train)
    shown = table(found, next(iter(arms)))
    (options.out / f"{options.method}.md").write_text(shown)
    marks = [round(options.steps * look / LOOKS) for look in range(LOOKS + 1)]
    across = {f"neighbours, step {mark}": float(mark) for mark in marks}
    (options.out / f"{options.method}.svg").write_text(curves(found, across, "steps"))
    print(shown)


if __name__ == "__main__":
    main()
