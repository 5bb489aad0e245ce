"""A study: which parts of RangeViT tell thin and small things, on synthetic scans.

    python bench/lidar.py [--seeds 3] [--steps 300] [--drives 8] [--columns 256] [--out lidar.json]
                          [--images fashion-sample] [--images-steps 600]

A ray caster makes the scans (`vitrail.data.lidar.cast`), so nothing here says how good a network
is on any street. Arms differ in stem, decoder, the stem's map behind the decoder ("skip"), patches,
the refiner of points, and whether the ViT begins with what it learned of images, which another one
of the same sizes is trained on first; all take as many steps on the same scans. The test part
chooses nothing. What is finished is in the file, so a stopped study goes on.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from arms import Figures, finished, table

from vitrail import checkpoint
from vitrail.config import to_json
from vitrail.data.lidar.batches import Moves
from vitrail.data.lidar.cast import Sensor, write_street
from vitrail.jobs.wish import completed, wished
from vitrail.models import config_json, rangevit
from vitrail.objectives import FocalLovasz
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, read
from vitrail.run.scans import ScanWorkshop, read_scans
from vitrail.run.view import View
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
BEGUN = ", begun with images"
VIT = [
    "model=vit_ti16", "model.image=28,28", "model.patch=4", f"model.dim={SIZES['dim']}",
    f"model.depth={SIZES['depth']}", f"model.heads={SIZES['heads']}",
    f"model.hidden={SIZES['hidden']}",
]  # fmt: skip
BATCH = 4


@dataclass(frozen=True)
class Arm:
    """A way to build the network: parts by name, patches, and whether a ViT of images begins it."""

    parts: str
    patch: tuple[int, int]
    begun: bool = False

    @property
    def name(self) -> str:
        """Return how it is called in the table."""
        return f"{self.parts}, {self.patch[0]}x{self.patch[1]}{BEGUN if self.begun else ''}"


def vit_of_images(file: Path, data: str, steps: int) -> str:
    """Train a ViT of the arms' sizes on images, unless the file is there; returns its name."""
    if not file.is_file():
        images = read(Data(data), Hardware("cpu"), View())
        recipe, _ = completed(wished([*VIT, f"data={data}"]), images.workshop)
        recipe = replace(recipe, steps=replace(recipe.steps, total=steps))
        with tempfile.TemporaryDirectory() as scratch:
            model = images.workshop.train(recipe, Path(scratch), steps).best
        right = images.workshop.validate(model, recipe).main
        print(f"the ViT tells {right:.1%} of the validation images of {data}", flush=True)
        checkpoint.save(file, model.state_dict(), metadata={"config": recipe.model})
    return str(file)


def recipe_of(arm: Arm, workshop: ScanWorkshop, steps: int, seed: int, images: str) -> Recipe:
    """What an arm trains by; `images` are the weights of a ViT."""
    projection = workshop.projection
    image = (projection.height, projection.width)
    classes = len(workshop.split.classes)
    config = rangevit.Config(
        **SIZES, **ARMS[arm.parts], patch=arm.patch, image=image, classes=classes
    )
    data = workshop.data(Data("street"), image, workshop.split.channels)
    refines = isinstance(config.points, rangevit.PointHead)
    task = Lidar(projection, Moves(0.5, 0.0, 0.0), neighbours=7 if refines else 0)
    return Recipe(
        to_json(config_json(config)), data, Steps(steps, BATCH, ema=None, lean=False),
        optimizer=AdamW(lr=2e-3, weight_decay=0.01), schedule=Schedule(20),
        objective=FocalLovasz(), task=task, seed=seed, pretrained=images if arm.begun else None,
    )  # fmt: skip


def overlaps(recipe: Recipe, workshop: ScanWorkshop) -> Figures:
    """Train an arm to its end and judge it: the mean overlap of all classes, and that of each, on
    the test scans."""
    with tempfile.TemporaryDirectory() as scratch:
        outcome = workshop.train(recipe, Path(scratch), recipe.steps.total)
        verdict = judge(outcome.best, recipe, workshop.split.test, workshop)
    found = maps.overlaps(verdict.outputs.values.sum(0)).nan_to_num()
    each = dict(zip(workshop.split.classes, found.tolist(), strict=True))
    return {"mean overlap": found.mean().item(), **each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--drives", type=int, default=8)
    parser.add_argument("--images", default="fashion-sample")
    parser.add_argument("--images-steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("lidar.json"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        street = Path(folder) / "street"
        write_street(street, Sensor(16, asked.columns), drives=asked.drives, scans=20)
        scans = read_scans(Data(str(street)), Hardware("cpu"), View(), Lidar())
        weights = asked.out.with_suffix(".vit.safetensors")
        images = vit_of_images(weights, asked.images, asked.images_steps)
        known = {arm.name: arm for arm in arms()}

        def train(name: str, seed: int) -> Figures:
            recipe = recipe_of(known[name], scans.workshop, asked.steps, seed, images)
            return overlaps(recipe, scans.workshop)

        found = finished(asked.out, [*known], asked.seeds, train)
        print(table(found, next(iter(known))))


def arms() -> list[Arm]:
    """The arms; of the larger patches, and begun with images, only the first and that with a
    skip."""
    some = [name for name in ARMS if name.endswith(("linear decoder", "skip"))]
    return [
        *(Arm(parts, PATCHES[0]) for parts in ARMS),
        *(Arm(parts, PATCHES[1]) for parts in some),
        *(Arm(parts, PATCHES[0], begun=True) for parts in some),
    ]


if __name__ == "__main__":
    main()
