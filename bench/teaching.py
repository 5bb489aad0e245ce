"""A study: a small DeiT that learns from labels alone, and from a teacher of convolutions besides.

    python bench/teaching.py [DATA] [--seeds 3] [--epochs 3] [--out teaching.json]

A small ResNet learns the training part first, as long as a student does. Then the same transformer
learns from the labels, from the teacher's likeliest class beside them ("hard"), and so with a token
and a head for what the teacher says (DeiT's distillation token). All students take as many steps on
the same images, which are mirrored and nothing else, so that the teacher's answers are kept. The
test part chooses nothing. What is finished is in the file, so a stopped study goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

import vitrail
from vitrail.config import to_json
from vitrail.data.augment import Augment
from vitrail.models import small_configs
from vitrail.objectives import CrossEntropy, Distillation
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.exported import labels as labels_of
from vitrail.run.folder import RunFolder
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, read
from vitrail.run.view import View
from vitrail.run.workshop import Workshop
from vitrail.study.effect import effects

ARMS = ("labels", "hard", "hard with token")
STUDENT = {"dim": 64, "depth": 4, "heads": 2, "hidden": 128, "patch": 7, "drop_path": 0.0}


def student(arm: str, classes: int, channels: int, image: tuple[int, int]) -> Any:
    """The Config of an arm's student."""
    config = vitrail.catalog()["deit_tiny"].config
    distilled = arm == "hard with token"
    sizes = {"image": image, "classes": classes, "channels": channels, "distilled": distilled}
    return replace(config, **STUDENT, **sizes)


def recipe_of(config: Any, workshop: Workshop, data: Data, epochs: int, seed: int) -> Recipe:
    """What a network trains by, teacher and student alike."""
    n = len(workshop.split.train)
    total = epochs * (n // batch_size(n))
    made = default(config, data, images=n, total=total, seed=seed)
    return replace(made, augment=Augment(flip=0.5, shift=0.0))


def teacher_in(folder: Path, workshop: Workshop, data: Data, epochs: int) -> float:
    """Train the teacher, once; returns its accuracy on the validation part."""
    split = workshop.split
    sizes = {"image": data.image, "channels": data.channels, "classes": len(split.classes)}
    config = next(c for c in small_configs("resnet", **sizes) if c.dims[0] >= 32)
    recipe = recipe_of(config, workshop, data, epochs, 0)
    with tempfile.TemporaryDirectory() as scratch:
        outcome = workshop.train(recipe, Path(scratch), recipe.steps.total)
    model, scores = workshop.better(outcome, recipe)
    with RunFolder.create(folder) as run:
        run.save_model(model, to_json(recipe), labels_of(recipe, workshop))
    return scores.figures["accuracy"]


def accuracy(
    arm: str, seed: int, workshop: Workshop, data: Data, epochs: int, teacher: Path
) -> float:
    """Train a student to its end and judge it."""
    config = student(arm, len(workshop.split.classes), data.channels, data.image)
    objective = CrossEntropy(0.1) if arm == "labels" else Distillation(str(teacher))
    recipe = replace(recipe_of(config, workshop, data, epochs, seed), objective=objective)
    with tempfile.TemporaryDirectory() as scratch:
        outcome = workshop.train(recipe, Path(scratch), recipe.steps.total)
        verdict = judge(outcome.best, recipe, workshop.split.test, workshop)
    return recipe.task.scores(verdict.outputs).figures["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("teaching.json"))
    asked = parser.parse_args()
    workshop = read(Data(asked.data), Hardware("cpu"), View()).workshop
    data = workshop.data(Data(asked.data), (28, 28), workshop.split.channels)
    done = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
    teacher = asked.out.with_name(f"{asked.out.stem}-teacher")
    if "teacher" not in done:
        done["teacher"] = teacher_in(teacher, workshop, data, asked.epochs)
    for seed in range(asked.seeds):
        for arm in ARMS:
            name = f"{arm} {seed}"
            if name not in done:
                done[name] = accuracy(arm, seed, workshop, data, asked.epochs, teacher)
            asked.out.write_text(json.dumps(done, indent=1))
            print(name, f"{done[name]:.1%}", flush=True)
    values = {arm: [done[f"{arm} {seed}"] for seed in range(asked.seeds)] for arm in ARMS}
    console = Console()
    console.print(f"teacher: {done['teacher']:.1%} on the validation part")
    for arm, gap in effects(values, "labels").items():
        console.print(arm, values[arm], gap)


if __name__ == "__main__":
    main()
