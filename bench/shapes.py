"""A study: the shape that SoViT's laws ask for beside one that grows in proportion.

    python bench/shapes.py DATA [--out FOLDER] [--sizes 32,48,64] [--time 3m] [--times 2]

A star of small ViTs learns DATA, as `vitrail scale` trains it, and each size has its law (SoViT,
arXiv 2305.13035). From the best shape the laws ask for one at so many times the compute of its
training; its rival grows from the same shape by one factor in width, depth and hidden width, until
an image costs it as many multiply-adds. Both are trained by as much compute, with every seed, and
judged on the validation images. Results are in FOLDER/shapes.json and shapes.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from arms import Figures, finished, table

from vitrail.models import resolve
from vitrail.recipes.recipe import Data
from vitrail.run.reading import Hardware, read
from vitrail.run.subject import counted
from vitrail.run.view import View
from vitrail.study.scaling import MULTIPLES, NAMES, Sweep, laws, predicted, star
from vitrail.units import parse_duration

Shape = Mapping[str, int]


def cost(shape: Shape) -> int:
    """Return the multiply-adds of a shape for one image of 64 patches."""
    heads = max(1, shape["dim"] // 32)
    found = counted(resolve("scaling_vit_s16", image=(32, 32), patch=4, heads=heads, **shape))
    assert found is not None
    return found.macs


def proportional(begun: Shape, macs: int) -> dict[str, int]:
    """Return the shape that grows from another by one factor and costs as near as can be to so many
    multiply-adds."""
    grown = [
        {
            name: max(1, round(begun[name] * (1 + step / 100) / MULTIPLES.get(name, 1)))
            * MULTIPLES.get(name, 1)
            for name in NAMES
        }
        for step in range(200)
    ]
    return min(grown, key=lambda shape: abs(cost(shape) - macs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, default=Path("bench-run/shapes"))
    parser.add_argument("--sizes", default="32,48,64")
    parser.add_argument("--time", default="3m", help="for the star")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--times", type=float, default=2.0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    view = View()
    images = read(Data(options.data), Hardware("cpu"), view)
    shapes = star(sorted(map(int, options.sizes.split(","))))
    points = Sweep(images, options.out, 0, view).run(shapes, parse_duration(options.time))
    found = laws(points, options.out)
    asked = predicted(found, options.times)
    for name, law in found.shapes.items():
        low, high = law.intervals["growth"]
        print(f"{name}: grows by the power {law.growth:.2f} ({low:.2f} to {high:.2f})")
    if asked is None:
        raise SystemExit("the points tell no law for each size: give more --time")
    rivals = {"asked for": asked["shape"]}
    rivals["in proportion"] = proportional(asked["from"], cost(asked["shape"]))
    print("from", asked["from"], {name: (shape, cost(shape)) for name, shape in rivals.items()})

    def train(arm: str, seed: int) -> Figures:
        folder = options.out / f"{arm}-{seed}".replace(" ", "-")
        folder.mkdir(exist_ok=True)
        proof = Sweep(images, folder, seed, view).prove(rivals[arm], asked["compute"])
        return {"right": 1 - proof.error}

    shown = table(finished(options.out / "shapes.json", [*rivals], options.seeds, train),
                  "in proportion")  # fmt: skip
    (options.out / "shapes.md").write_text(shown)
    print(shown)


if __name__ == "__main__":
    main()
