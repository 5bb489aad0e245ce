"""A study: augmentation, regularisation, images and steps, all with each other.

    python bench/augreg.py FOLDER [--out FOLDER] [--seeds 3] [--images 500] [--steps 160]

FOLDER has train/ and test/ with a folder for each class. A small ViT learns a tenth of `--images`
a class or all of them, for `--steps` or four times as many, with nothing but flips and shifts, with
AugReg's "light2" or its "strong1" besides (arXiv 2106.10270: mixup, and two operations of
RandAugment on every image), each without and with its regularisation: dropout of 0.1 and a tenth
of the paths. So it is a grid of 2 x 2 x 3 x 2, and what augmentation or regularisation changes can
be read for each amount of images and steps. Results are in FOLDER/augreg.json, a table beside it.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

from arms import Figures, accuracy, finished, table

from vitrail.jobs.wish import completed, wished
from vitrail.recipes.recipe import Data
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View

MODEL = [
    "model=vit_ti16", "model.image=32,32", "model.patch=4", "model.dim=48", "model.depth=3",
    "model.heads=3", "model.hidden=96", "model.pool=mean", "steps.batch=64",
]  # fmt: skip
POLICY = "augment.policy=google_rand_augment"
LEVELS = {
    "none": [],
    "light2": [POLICY, "augment.policy.magnitude=10", "augment.mixup=0.2"],
    "strong1": [POLICY, "augment.policy.magnitude=20", "augment.mixup=0.5"],
}
REGULARISED = ["methods=dropout", "methods.0.rate=0.1", "model.drop_path=0.1"]
SHARES = {"a tenth": 0.1, "all": 1.0}
LENGTHS = {"short": 1, "long": 4}
TESTED = 200


def listed(folder: Path, images: int, out: Path) -> Path:
    """Write a table of the first images of each class and of test images; returns where it is."""
    rows = ["image,label,split"]
    for part, most in (("train", images), ("test", TESTED)):
        for own in sorted((folder / part).iterdir()):
            some = sorted(own.iterdir())[:most]
            rows += [f"{one.resolve()},{own.name},{part}" for one in some]
    out.write_text("\n".join(rows))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench-run/augreg"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=160)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, tuple[Path, Read]] = {}
    for share, part in SHARES.items():
        file = options.out / f"{share.replace(' ', '-')}.csv"
        file = listed(options.folder, round(part * options.images), file)
        parts[share] = file, read(Data(str(file)), Hardware("cpu"), View())

    def train(arm: str, seed: int) -> Figures:
        share, length, level, more = arm.split(", ")
        file, images = parts[share]
        words = [*MODEL, *LEVELS[level], f"data={file}", f"seed={seed}"]
        words += REGULARISED if more == "regularised" else []
        words += [f"steps.total={LENGTHS[length] * options.steps}"]
        recipe, _ = completed(wished(words), images.workshop)
        return {"accuracy": accuracy(recipe, images)}

    kinds = [f"{level}, {more}" for level, more in product(LEVELS, ("plain", "regularised"))]
    cells = [f"{share}, {length}" for share, length in product(SHARES, LENGTHS)]
    arms = [f"{cell}, {kind}" for cell, kind in product(cells, kinds)]
    found = finished(options.out / "augreg.json", arms, options.seeds, train)
    each = {
        kind: [
            {cell: found[f"{cell}, {kind}"][seed]["accuracy"] for cell in cells}
            for seed in range(options.seeds)
        ]
        for kind in kinds
    }
    told = table(each, kinds[0])
    (options.out / "table.md").write_text(told)
    print(told)


if __name__ == "__main__":
    main()
