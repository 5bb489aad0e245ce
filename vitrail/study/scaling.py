"""`vitrail scale`: a star of shapes, trained without an end and cooled down, and the laws they
obey.

One size varies at a time, the others staying at the centre (SoViT, arXiv 2305.13035). Each model is
trained once, at the reciprocal square root's schedule, and from several steps on a copy is cooled
down (Scaling ViT, arXiv 2106.04560): so one training gives an error for each duration.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time as clock
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from vitrail.config import loads, parse, read_json, to_json
from vitrail.errors import ConfigError, RunError
from vitrail.models import config_from_json, config_json, resolve
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.report.scaling import ScalingFacts, render_scaling
from vitrail.run import place
from vitrail.run.folder import RunFolder, free_name
from vitrail.run.reading import Hardware, Read
from vitrail.run.reading import read as read_data
from vitrail.run.state import require_same
from vitrail.run.stopping import interruptible
from vitrail.run.subject import counted as counted_model
from vitrail.run.view import View
from vitrail.study.laws import (
    DRAWS,
    Saturating,
    Shape,
    fit_saturating,
    fit_shape,
    frontier,
    scaled,
)
from vitrail.training.schedule import Rsqrt
from vitrail.units import counted, parse_duration, shortened

# What was asked, and beside it the digest of the images that the points are of.
ASKED, IMAGES = "asked.json", "images"
NAMES = ("dim", "depth", "hidden")
MULTIPLES = {"dim": 16, "hidden": 16}
# Shares of the longest duration at which copies are cooled down, and how long that takes.
DURATIONS, COOLING = (0.125, 0.25, 0.5, 1.0), 0.2
PACE_STEPS = 6
# How many times the compute of the best model a prediction is for, and is proved at.
TIMES = 4.0
AGAIN = "start again in another folder"
# A backward pass costs about two forward passes.
PASSES = 3


@dataclass(frozen=True)
class Point:
    """A model at the end of a cool-down: its sizes, multiply-adds of the training, its error."""

    sizes: Mapping[str, int]
    compute: float
    error: float
    images: int


@dataclass(frozen=True)
class Scaled:
    """Holds what a sweep found: points, laws as far as they could be fitted, and the run folder."""

    points: tuple[Point, ...]
    law: Saturating | None
    shapes: Mapping[str, Shape]
    folder: Path
    proof: Point | None = None


@dataclass(frozen=True)
class Asked:
    """The arguments of a sweep, kept in its folder: points of others do not tell one law."""

    data: str
    sizes: tuple[int, ...]
    time_s: float
    seed: int = 0

    def again(self, folder: Path, device: str) -> str:
        """Return the command that goes on with the sweep in a folder."""
        words = ["vitrail scale", shlex.quote(self.data), "--sizes", ",".join(map(str, self.sizes)),
                 f"--time {self.time_s:g}s"]  # fmt: skip
        words += [f"--seed {self.seed}"] if self.seed else []
        words += [f"--device {device}"] if device != "auto" else []
        return " ".join([*words, "--out", shlex.quote(str(folder))])


def scale(
    data: str | Path,
    *,
    sizes: Sequence[int] = (32, 64, 96, 128),
    time: str | float = "1h",
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Scaled:
    """Train a star of ViTs on `data` and fit the laws of scale to their errors.

    `sizes` are widths; depths and hidden widths vary with them, one at a time, the largest width
    being the centre. What was trained is kept in `out`, so that a stopped sweep goes on where it
    was when the same command is given again. At last the shape that the laws ask for at 4 times
    the compute of the best model is trained, so that the prediction stands beside the truth. Raises
    VitrailError.
    """
    _require_law(sizes)
    wanted = Asked(str(data), tuple(sizes), parse_duration(time), seed)
    view = View(console)
    folder = Path(out) if out is not None else free_name("scaling")
    begun = _begun(folder, wanted)
    images = read_data(Data(str(data), seed=seed), Hardware(device), view)
    with RunFolder.create(folder, resume=begun) as run:
        _settle(run, wanted, images)
        again = wanted.again(folder, device)
        with interruptible(again), view.shown():
            found, asked = _swept(Sweep(images, folder, seed, view), wanted)
        _write(found, asked, images, again)
    return found


def _begun(folder: Path, wanted: Asked) -> bool:
    """Return whether a folder holds the sweep that is wanted. Raises ConfigError where it holds
    another, RunError where it holds anything else, or cannot be written.
    """
    if place.kind(folder / ASKED) is None:
        RunFolder.check_free(folder)
        return False
    kept = read_json(folder / ASKED, Asked, remedy=AGAIN, leave_out=(IMAGES,))
    require_same(
        RunFolder(folder), {"data": wanted.data, "sizes": wanted.sizes, "seed": wanted.seed},
        vars(kept),
    )  # fmt: skip
    RunFolder.check_writable(folder)
    return True


def _settle(run: RunFolder, wanted: Asked, images: Read) -> None:
    """Write down what the points of a sweep belong to, or compare. Raises RunError."""
    file = run.path / ASKED
    if place.kind(file) is None:
        run.write_json(file, to_json(wanted) | {IMAGES: images.digest})
    elif read_json(file, dict, remedy=AGAIN).get(IMAGES) != images.digest:
        raise RunError(
            f"the images are not those that {run.path} began with (some were added, removed or "
            "changed): restore them, or scale in another folder"
        )


def _swept(sweep: Sweep, wanted: Asked) -> tuple[Scaled, dict[str, Any] | None]:
    """Train the star, fit the laws and prove what they predict; returns both."""
    shapes = star(sorted(set(wanted.sizes)))
    points = sweep.run(shapes, wanted.time_s * len(shapes) / (len(shapes) + TIMES))
    found = laws(points, sweep.folder)
    asked = predicted(found)
    if asked is not None:
        found = replace(found, proof=sweep.prove(asked["shape"], asked["compute"]))
    return found, asked


def _require_law(sizes: Sequence[int]) -> None:
    """Raise ConfigError for widths that no law can be fitted to."""
    if len(set(sizes)) < 3 or min(sizes) < 16 or any(size % 16 for size in sizes):
        raise ConfigError(
            f"--sizes {','.join(map(str, sizes))} do not tell a law: give three widths or more, "
            "multiples of 16"
        )


def _write(found: Scaled, asked: Mapping[str, Any] | None, images: Read, command: str) -> None:
    """Write the page and the figures of a sweep; `asked` is the shape that was predicted."""
    points, proof, run = found.points, found.proof, RunFolder(found.folder)
    facts = ScalingFacts(
        images.inspection.source.name, len(images.workshop.split.train),
        [_told(p) for p in points],
        frontier([p.compute for p in points], [p.error for p in points]).tolist(),
        found.law, found.shapes, asked, command, proof and _told(proof),
    )  # fmt: skip
    run.write_text(run.path / "report.html", render_scaling(facts))
    told = {
        "points": [asdict(p) for p in points],
        "law": found.law and asdict(found.law),
        "shapes": {name: {**asdict(s), "growth": s.growth} for name, s in found.shapes.items()},
        "predicted": facts.predicted,
        "proof": proof and asdict(proof),
    }
    run.write_json(run.path / "result.json", told)


def star(widths: Sequence[int]) -> list[dict[str, int]]:
    """Return the shapes of a star whose centre has the largest width, each once.

    Examples:
        >>> [shape["dim"] for shape in star([16, 32, 64])]
        [64, 16, 32, 64, 64, 64, 64]
    """
    top, depths = widths[-1], [2, 3, 4, 6, 8, 12][: len(widths)]
    centre = {"dim": top, "depth": depths[-1], "hidden": 4 * top}
    shapes = [centre]
    shapes += [centre | {"dim": width} for width in widths[:-1]]
    shapes += [centre | {"depth": depth} for depth in depths[:-1]]
    shapes += [centre | {"hidden": 4 * width} for width in widths[:-1]]
    return shapes


def laws(points: Sequence[Point], folder: Path, *, draws: int = DRAWS) -> Scaled:
    """Fit what the points allow: the frontier's law, and a form for each size that varies.

    Intervals are of `draws` of the points.
    """
    errors, compute = [p.error for p in points], [p.compute for p in points]
    front = frontier(compute, errors)
    law = None
    if len(front) >= 5:
        law = fit_saturating(
            [compute[i] for i in front], [errors[i] for i in front], draws=draws
        )  # fmt: skip
    centre = {name: max(p.sizes[name] for p in points) for name in NAMES}
    shapes = {}
    for name in NAMES:
        arm = [p for p in points if all(p.sizes[o] == centre[o] for o in NAMES if o != name)]
        if len(arm) >= 8 and len({p.sizes[name] for p in arm}) >= 3:
            shapes[name] = fit_shape(
                [p.sizes[name] for p in arm], [p.compute for p in arm], [p.error for p in arm],
                draws=draws,
            )  # fmt: skip
    return Scaled(tuple(points), law, shapes, folder)


def _told(point: Point) -> tuple[Mapping[str, int], float, float]:
    return dict(point.sizes), point.compute, point.error


def predicted(found: Scaled, times: float = TIMES) -> dict[str, Any] | None:
    """Return the shape for `times` the best model's compute; None without a law for each size."""
    if set(found.shapes) != set(NAMES):
        return None
    best = min(found.points, key=lambda p: p.error)
    growth = {name: shape.growth for name, shape in found.shapes.items()}
    shape = scaled(best.sizes, growth, times, MULTIPLES)
    compute = times * best.compute
    error = None if found.law is None else float(found.law.error(compute))
    return {
        "times": times, "from": dict(best.sizes), "shape": shape, "error": error,
        "compute": compute,
    }  # fmt: skip


class Sweep:
    """Trains shapes, and keeps every point in points.jsonl as soon as it is known."""

    def __init__(self, images: Read, folder: Path, seed: int, view: View) -> None:
        self.images, self.workshop = images, images.workshop
        self.folder, self.seed, self.view = folder, seed, view
        self.file = folder / "points.jsonl"

    def run(self, shapes: Sequence[dict[str, int]], seconds: float) -> list[Point]:
        """Train all shapes in about the time that is given; returns their points."""
        began, known = clock.monotonic(), list(self._known())
        done = {json.dumps(p.sizes) for p in known}
        left = [shape for shape in shapes if json.dumps(shape) not in done]
        for number, shape in enumerate(left):
            share = max(0.0, seconds - (clock.monotonic() - began)) / (len(left) - number)
            self.view.phase(f"{number + 1} of {len(left)}: {_spoken(shape)}")
            found = self._train(shape, share)
            known += found
            lines = [json.dumps(asdict(point)) for point in known]
            RunFolder(self.folder).write_text(self.file, "\n".join(lines) + "\n")
        return known

    def prove(self, shape: dict[str, int], compute: float) -> Point:
        """Train a shape with so many multiply-adds, once; returns what came of it."""
        file = self.folder / "proof.json"
        if file.is_file():
            known = read_json(file, Point, remedy=AGAIN)
            if dict(known.sizes) == shape:
                return known
        self.view.phase(f"proving the prediction: {_spoken(shape)}")
        recipe, where = self._recipe(shape), self.folder / "checkpoints" / "proof"
        macs = counted_model(recipe.config)
        assert macs is not None
        total = max(2, round(compute / (PASSES * macs.macs * recipe.steps.batch)))
        mark = max(1, round(total / (1 + COOLING)))
        recipe = replace(
            recipe, steps=replace(recipe.steps, total=total),
            schedule=Rsqrt(max(1, mark // 20), timescale=max(1, mark // 4), cooldown=total - mark),
        )  # fmt: skip
        outcome = self.workshop.train(recipe, where, total)
        found = self._point(shape, recipe, outcome.model, total)
        RunFolder(self.folder).write_json(file, asdict(found))
        shutil.rmtree(where, ignore_errors=True)
        return found

    def _point(self, shape: dict[str, int], recipe: Recipe, model: nn.Module, steps: int) -> Point:
        """Judge a model that was trained for so many steps."""
        scores, macs = self.workshop.validate(model, recipe), counted_model(recipe.config)
        assert macs is not None
        seen = steps * recipe.steps.batch
        # No error is known better than to half an image.
        error = max(1 - scores.main, 0.5 / scores.n)
        return Point(shape, float(PASSES * macs.macs * seen), error, seen)

    def _known(self) -> Iterator[Point]:
        if self.file.is_file():
            for number, line in enumerate(self.file.read_text("utf-8", "replace").splitlines(), 1):
                try:
                    yield parse(Point, loads(line))
                except (ValueError, ConfigError) as error:
                    said = f"line {number} is damaged ({shortened(str(error))})"
                    raise RunError(f"{self.file}, {said}: {AGAIN}") from error

    def _recipe(self, shape: Mapping[str, int]) -> Recipe:
        split, size = self.workshop.split, self.images.inspection.size
        side = max(16, min(64, min(size)) // 4 * 4)
        config = replace(
            config_from_json(to_json(config_json(resolve("scaling_vit_s16")))),
            **shape, heads=max(1, shape["dim"] // 32), patch=4 if side <= 32 else 8,
            image=(side, side), channels=split.channels, classes=len(split.classes),
        )  # fmt: skip
        data = self.workshop.data(Data("", seed=self.seed), (side, side), split.channels)
        recipe = default(
            config, data, images=len(split.train), total=1000, seed=self.seed,
            device=self.workshop.device,
        )  # fmt: skip
        return replace(recipe, steps=replace(recipe.steps, ema=None))

    def _train(self, shape: dict[str, int], seconds: float) -> list[Point]:
        """Train once with its cool-downs: a point for each duration."""
        recipe = self._recipe(shape)
        name = "-".join(map(str, shape.values()))
        where = self.folder / "checkpoints" / name
        shutil.rmtree(where, ignore_errors=True)
        pace = self.workshop.train(recipe, where / "pace", PACE_STEPS).samples_per_s
        batch = recipe.steps.batch
        whole = 1 + COOLING * sum(DURATIONS)
        most = max(len(DURATIONS) * 8, int(seconds * pace / batch / whole))
        warmup = max(1, most // 20)
        endless = replace(recipe, schedule=Rsqrt(warmup, timescale=max(1, most // 4)),
                          steps=replace(recipe.steps, total=10 * most))  # fmt: skip
        found = []
        for share in DURATIONS:
            mark = max(2, int(share * most))
            self.workshop.train(endless, where / "endless", mark)
            copy = where / f"cooled-{mark}"
            shutil.copytree(where / "endless", copy)
            cooling = max(1, int(COOLING * mark))
            cooled = replace(
                endless, schedule=replace(endless.schedule, cooldown=cooling),
                steps=replace(endless.steps, total=mark + cooling),
            )  # fmt: skip
            outcome = self.workshop.train(cooled, copy, mark + cooling)
            found.append(self._point(shape, cooled, outcome.model, mark + cooling))
        shutil.rmtree(where, ignore_errors=True)
        return found


def _spoken(shape: Mapping[str, int]) -> str:
    return f"width {shape['dim']}, {counted(shape['depth'], 'block')}, hidden {shape['hidden']}"


def summary(found: Scaled) -> str:
    """Return the laws in a few lines, for the terminal."""
    lines = [f"{counted(len(found.points), 'point')} in {found.folder}"]
    if found.law is not None:
        low, high = found.law.intervals["b"]
        lines.append(
            f"E = {found.law.a:.3g} (C + {found.law.d:.3g})^-{found.law.b:.3f} + "
            f"{found.law.c:.3f}, exponent {low:.2f} to {high:.2f} with 95 %"
        )
    for name, shape in found.shapes.items():
        low, high = shape.intervals["growth"]
        lines.append(
            f"{name} grows with compute to the power {shape.growth:.2f} ({low:.2f} to {high:.2f})"
        )
    if np.isfinite(min((p.error for p in found.points), default=np.inf)):
        best = min(found.points, key=lambda p: p.error)
        lines.append(f"best: {_spoken(best.sizes)}, error {best.error:.1%}")
    if found.proof is not None:
        proof, said = found.proof, ""
        if found.law is not None:
            said = f" where the law says {float(found.law.error(proof.compute)):.1%}"
        lines.append(f"asked for: {_spoken(proof.sizes)}, trained: error {proof.error:.1%}{said}")
    return "\n".join(lines)
