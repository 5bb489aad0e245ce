"""What one set of weights for many costs gains and loses, on real images, seed by seed.

    python bench/one_set.py [DATA] [--out FOLDER] [--steps 600] [--seeds 3]

A small ViT of patches of 7 pixels is trained on DATA (by default the bundled sample) in three ways
for as many steps: at its own size, at patches of 4, 7 and 14 drawn step by step (`flexivit`), and
with half of its patches in each step (`patch_dropout`). Each is then asked about the test images at
all sizes; the one of a fixed size with its kernel PI-resized, and resized bilinearly, as it is and
scaled by the areas. What is there after a stop is not trained again. Differences are means over
seeds with 95 % intervals, as `vitrail study` has them; nothing is chosen by the test images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import vitrail
from vitrail.data.cache import Pixels
from vitrail.layers.pi_resize import Size, pi_resize
from vitrail.methods import Flexivit, Methods, PatchDropout
from vitrail.methods.flexivit import choose
from vitrail.models import resolve
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View
from vitrail.study.effect import effects

OWN, PATCHES, SIDE = 7, (4, 7, 14), 28
SMALL = {"dim": 48, "depth": 3, "heads": 3, "hidden": 96, "patch": OWN}
ARMS: dict[str, tuple[Methods, ...]] = {
    "fixed": (),
    "flexible": (Flexivit(PATCHES),),
    "patch_dropout 0.5": (PatchDropout(0.5),),
}
Resize = Callable[[Tensor, Size], Tensor]


def plain(kernel: Tensor, size: Size) -> Tensor:
    """The kernel resized as a picture would be."""
    return F.interpolate(kernel, size, mode="bilinear", antialias=True)


def by_area(kernel: Tensor, size: Size) -> Tensor:
    """The same, so that the sum over a patch stays."""
    height, width = kernel.shape[-2:]
    return plain(kernel, size) * (height * width / (size[0] * size[1]))


RESIZES: dict[str, Resize] = {"PI": pi_resize, "bilinear": plain, "bilinear by area": by_area}


def recipes(images: Read, spec: str, steps: int) -> dict[str, Recipe]:
    """The same recipe for all arms, but for the methods."""
    split = images.workshop.split
    config = resolve(
        "vit_ti16", image=(SIDE, SIDE), channels=split.channels, classes=len(split.classes), **SMALL
    )
    data = images.workshop.data(Data(spec), (SIDE, SIDE), split.channels)
    common = default(config, data, images=len(split.train), total=steps)
    return {name: replace(common, methods=methods) for name, methods in ARMS.items()}


def asked(model: nn.Module, recipe: Recipe, images: Read, pixels: Pixels) -> float:
    """The share of the test images that a model gets right."""
    outputs = images.workshop.outputs(model, recipe, pixels)
    return recipe.task.scores(outputs).figures["accuracy"]


def answers(arm: str, model: nn.Module, recipe: Recipe, images: Read) -> dict[str, float]:
    """Test accuracies of a trained model, by how its kernel was resized, and its size."""
    pixels = judge(model, recipe, images.workshop.split.test, images.workshop).pixels
    found = {}
    for name, resize in RESIZES.items() if arm == "fixed" else [("PI", pi_resize)]:
        state = model.state_dict()
        for patch in PATCHES:
            other = images.workshop.model(recipe)
            other.load_state_dict(state)
            if arm != "flexible":
                other = Flexivit(PATCHES).apply(other)
            with mock.patch("vitrail.layers.flexible.pi_resize", resize):
                found[f"{name} {patch}"] = asked(
                    choose(other.eval(), patch), recipe, images, pixels
                )
    return found


def gap(values: Mapping[str, list[float]], base: str) -> str:
    """The difference from a baseline, in points, with its interval."""
    (one,) = effects(values, base).values()
    ends = "" if one.low is None else f" ({100 * one.low:+.1f} to {100 * (one.high or 0):+.1f})"
    return f"{100 * one.mean:+.1f}{ends}"


def table(found: Mapping[str, Mapping[str, float]], seeds: int) -> Table:
    """Means over seeds, and differences from the model of a fixed size, PI-resized."""

    def of(arm: str, how: str) -> list[float]:
        return [found[f"{arm} {seed}"][how] for seed in range(seeds)]

    shown = Table("trained", "asked at", "kernel", "test accuracy", "minus fixed, PI", box=None)
    rows = [(arm, f"PI {patch}") for patch in PATCHES for arm in ARMS]
    rows += [("fixed", f"{name} {p}") for p in PATCHES for name in list(RESIZES)[1:] if p != OWN]
    for arm, how in rows:
        name, _, patch = how.rpartition(" ")
        mine, base = of(arm, how), of("fixed", f"PI {patch}")
        same = (arm, name) == ("fixed", "PI")
        told = "" if same else gap({"base": base, "this": mine}, "base")
        shown.add_row(arm, patch, name, f"{100 * sum(mine) / seeds:.1f} %", told)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--out", type=Path, default=Path("one-set"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    console = Console()
    images = read(Data(given.data), Hardware("cpu"), View(console))
    made = recipes(images, given.data, given.steps)
    given.out.mkdir(parents=True, exist_ok=True)
    result = given.out / f"{given.steps}.json"
    found = json.loads(result.read_text()) if result.is_file() else {}
    for seed in range(given.seeds):
        for arm, recipe in made.items():
            key = f"{arm} {seed}"
            if key in found:
                continue
            recipe = replace(recipe, seed=seed)
            folder = given.out / f"{given.steps}-{key}".replace(" ", "-")
            outcome = images.workshop.train(recipe, folder, given.steps)
            found[key] = answers(arm, outcome.best, recipe, images)
            result.write_text(json.dumps(found, indent=1))
            console.print(key, found[key])
    console.print(table(found, given.seeds))
    console.print(f"vitrail {vitrail.__version__}, {len(images.workshop.split.train)} images")


if __name__ == "__main__":
    main()
