"""What the studies here share: results kept in a file, a table of differences, a picture of curves.

A result is one or several figures of an arm and a seed. They stand in a JSON file under "arm seed",
which is written after each, so that a stopped study goes on.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.jobs.wish import completed, wished
from vitrail.recipes.recipe import Recipe
from vitrail.report import canvas
from vitrail.run.judge import judge
from vitrail.run.reading import Read
from vitrail.study.effect import Effect, effects

Figures = dict[str, float]
Found = Mapping[str, Sequence[Figures]]


def finished(
    file: Path, arms: Sequence[str], seeds: int, train: Callable[[str, int], Figures]
) -> Found:
    """Return the figures of every arm, one entry a seed; `train` makes those that are missing."""
    done: dict[str, Figures] = json.loads(file.read_text()) if file.is_file() else {}
    for seed in range(seeds):
        for arm in arms:
            key = f"{arm} {seed}"
            if key not in done:
                done[key] = train(arm, seed)
                file.write_text(json.dumps(done, indent=1))
                print(key, {name: round(v, 4) for name, v in done[key].items()}, flush=True)
    return {arm: [done[f"{arm} {seed}"] for seed in range(seeds)] for arm in arms}


def for_epochs(words: Sequence[str], spec: str | Path, images: Read, epochs: int) -> Recipe:
    """Return the recipe of settings for so many passes over the training images of `spec`."""
    recipe, _ = completed(wished([*words, f"data={spec}"]), images.workshop)
    total = epochs * (len(images.workshop.split.train) // recipe.steps.batch)
    return replace(recipe, steps=replace(recipe.steps, total=total))


def accuracy(recipe: Recipe, images: Read) -> float:
    """Train by a recipe to its end, and return the share of test images that it answers rightly."""
    workshop = images.workshop
    with tempfile.TemporaryDirectory() as folder:
        outcome = workshop.train(recipe, Path(folder), recipe.steps.total)
        verdict = judge(outcome.best, recipe, workshop.split.test, workshop)
    return recipe.task.scores(verdict.outputs).figures["accuracy"]


def table(found: Found, base: str) -> str:
    """Return a Markdown table: means in per cent, and differences from `base` in points.

    In brackets are 95 % intervals that hold together for the arms of one column; bold is what
    leaves out 0.
    """
    names = list(found[base][0])
    gaps = {
        name: effects({arm: [one[name] for one in each] for arm, each in found.items()}, base)
        for name in names
    }
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for arm, each in found.items():
        cells = []
        for name in names:
            mean = 100 * sum(one[name] for one in each) / len(each)
            gap = f"; {_told(gaps[name][arm])}" if arm != base else ""
            cells.append(f"{mean:.1f}{gap}")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _told(gap: Effect) -> str:
    mark = "**" if gap.clear else ""
    ends = ""
    if gap.low is not None and gap.high is not None:
        ends = f" ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
    return f"{mark}{100 * gap.mean:+.1f}{mark}{ends}"


def curves(found: Found, across: Mapping[str, float], label: str) -> str:
    """Return an SVG file of means over seeds by arm, of the figures in `across` at these places;
    every seed is a small dot."""

    def draw(axes: Any) -> None:
        for at, (arm, each) in enumerate(found.items()):
            colour = canvas.SERIES[at % len(canvas.SERIES)]
            x = list(across.values())
            y = [[100 * one[name] for one in each] for name in across]
            axes.plot(x, [sum(v) / len(v) for v in y], color=colour, linewidth=1.6, label=arm)
            for place, values in zip(x, y, strict=True):
                axes.scatter([place] * len(values), values, s=8, color=colour, alpha=0.6)
        axes.set_xlabel(label)
        axes.set_ylabel("right answers, %")
        canvas.legend(axes, columns=3)

    return canvas.alone(canvas.svg(draw, "curves", canvas.WIDE))
