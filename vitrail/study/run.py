"""`vitrail study`: every arm with every seed under one recipe, then one page of differences.

An Optuna study in the folder holds a trial for each arm and seed, seed by seed, so that what is
there after a stop is comparable already. The test part is opened when a training is at its end:
nothing is chosen by it. Latencies are measured last, all arms taking turns.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vitrail.config import nearest, read_json, to_json
from vitrail.errors import ConfigError, RunError
from vitrail.layers.fold import deploy
from vitrail.measure.latency import alternate, threads_set
from vitrail.measure.machine import cores, machine
from vitrail.models import create
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.report.study import ArmFacts, StudyFacts, render_study
from vitrail.run.folder import RunFolder
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read
from vitrail.run.reading import read as read_data
from vitrail.run.state import State, require_same
from vitrail.run.stopping import interruptible
from vitrail.run.storage import open_study, speaking
from vitrail.run.subject import Subject, subject
from vitrail.run.view import View
from vitrail.study.effect import effects
from vitrail.study.plans import PLANS
from vitrail.units import shortened

ASKED, RESULT, PAGE = "asked.json", "study.json", "study.html"
STUDY = "study.sqlite"


@dataclass(frozen=True)
class Asked:
    """The arguments of a study, kept in its folder for `--resume`.

    `only` names some of the arms; the baseline always takes part. Raises ConfigError.
    """

    name: str
    data: str = "fashion-sample"
    seeds: int = 3
    epochs: int = 8
    only: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = field(default_factory=cores)
    group_by: str | None = None

    def __post_init__(self) -> None:
        if self.name not in PLANS:
            raise ConfigError(f"study {self.name!r} is unknown: {nearest(self.name, [*PLANS])}")
        arms = PLANS[self.name].arms
        for arm in self.only:
            if arm not in arms:
                raise ConfigError(f"arm {arm!r} of {self.name} is unknown: {nearest(arm, [*arms])}")
        if self.seeds < 1 or self.epochs < 1 or self.threads < 1:
            raise ConfigError(
                f"seeds is {self.seeds}, epochs {self.epochs}, threads {self.threads}: expected 1 "
                "or more of each"
            )


def study(asked: Asked, out: Path, console: Console | None = None) -> StudyFacts:
    """Train, test and compare the arms of a study in the folder `out`; returns what came out.

    Raises VitrailError.
    """
    view = View(console)
    RunFolder.check_free(out)
    # Before the folder is made: wrong data leave none.
    images = _read(asked, view)
    with RunFolder.create(out) as run:
        run.write_json(run.path / ASKED, to_json(asked))
        return _finish(asked, images, run, view)


def resume(
    out: Path, console: Console | None = None, *, given: Mapping[str, Any] | None = None
) -> StudyFacts:
    """Continue the study in the folder `out`, as it was asked for; returns what came out.

    `given` are fields of `Asked` that have to be what they were; None is not given. Raises
    VitrailError.
    """
    view = View(console)
    with RunFolder.create(out, resume=True) as run:
        asked = _asked(run.path)
        require_same(run, given or {}, vars(asked))
        return _finish(asked, None, run, view)


def _finish(asked: Asked, images: Read | None, run: RunFolder, view: View) -> StudyFacts:
    """Train what is missing, and write the result and its page."""
    with interruptible(_again(asked, run.path)), view.shown():
        facts = _Study(asked, images or _read(asked, view), run.path, view).run()
    run.write_json(run.path / RESULT, to_json(facts))
    run.write_text(run.path / PAGE, render_study(facts))
    return facts


def _asked(folder: Path) -> Asked:
    return read_json(folder / ASKED, Asked, remedy="start a new study without --resume")


def _read(asked: Asked, view: View) -> Read:
    """Read the data, inspected and divided. Raises DataError."""
    return read_data(Data(asked.data, group_by=asked.group_by), Hardware(asked.device), view)


def _again(asked: Asked, folder: Path) -> str:
    return f"vitrail study {asked.name} --resume --out {shlex.quote(str(folder))}"


class _Study:
    """One run of a study: the data, the arms' recipes, and the trials that are done."""

    def __init__(self, asked: Asked, images: Read, folder: Path, view: View) -> None:
        self.asked, self.images, self.folder, self.view = asked, images, folder, view
        self.plan = PLANS[asked.name]

    def run(self) -> StudyFacts:
        """Train whatever is missing, and return what came out."""
        images = self.images
        self._same_images(images)
        names = [n for n in self.plan.arms if not self.asked.only or n in self.asked.only]
        names = list(dict.fromkeys([self.plan.baseline, *names]))
        recipes = self._recipes(names, images)
        arms = {name: subject(recipes[name].config) for name in names}
        pairs = [(name, seed) for seed in range(self.asked.seeds) for name in names]
        with speaking(self.folder / STUDY):
            trials = _trials(self.folder / STUDY, self.asked.name, pairs)
        self.view.enter([replace(arm, name=name) for name, arm in arms.items()])
        for (name, seed), trial in trials.items():
            if "accuracy" not in trial.user_attrs:
                self.view.phase(f"training {name}, seed {seed + 1} of {self.asked.seeds}")
                self._train(name, replace(recipes[name], seed=seed), images, trial)
            done = [
                t.user_attrs["accuracy"] for (n, s), t in trials.items() if n == name and s <= seed
            ]
            self.view.update(name, accuracy=sum(done) / len(done), status="training")
        self.view.phase("measuring latencies")
        latencies = self._latencies(recipes)
        return self._facts(names, arms, trials, latencies, images)

    def _same_images(self, images: Read) -> None:
        """Raise RunError unless the images are those that the study began with."""
        path = self.folder / "fit.json"
        if path.is_file():
            State.read(path).require_images(images.digest)
        else:
            State.new(path, images=images.digest)

    def _recipes(self, names: Sequence[str], images: Read) -> dict[str, Recipe]:
        """Make the same recipe for all arms, but for the model."""
        workshop, split = images.workshop, images.workshop.split
        size = self.plan.image(images.inspection)
        data = workshop.data(
            Data(self.asked.data, group_by=self.asked.group_by), size, split.channels
        )
        n = len(split.train)
        configs = {
            name: self.plan.config(name, size, split.channels, len(split.classes)) for name in names
        }
        batch = batch_size(n, workshop.device, configs[self.plan.baseline])
        total = self.asked.epochs * max(1, n // batch)
        made = {
            name: default(
                configs[name],
                data,
                images=n,
                total=total,
                device=workshop.device,
            )
            for name in names
        }
        common = made[self.plan.baseline]
        return {
            name: amend(
                replace(
                    recipe,
                    steps=common.steps,
                    optimizer=common.optimizer,
                    schedule=common.schedule,
                ),
                self.plan.arms[name].settings,
            )
            for name, recipe in made.items()
        }

    def _train(self, name: str, recipe: Recipe, images: Read, trial: Any) -> None:
        """Train one arm with one seed to the end, and keep its test accuracy."""
        where, workshop = self.folder / "checkpoints" / f"{name}-{recipe.seed}", images.workshop
        total, began = recipe.steps.total, time.monotonic()
        self.view.update(name, status="training", steps=0)
        outcome = workshop.train(
            recipe, where, total, lambda step, *_: self.view.step(name, step, total)
        )
        verdict = judge(outcome.best, recipe, workshop.split.test, workshop)
        scores = recipe.task.scores(verdict.outputs)
        with speaking(self.folder / STUDY):
            trial.set_user_attr("seconds", time.monotonic() - began)
            trial.set_user_attr("images", scores.n)
            trial.set_user_attr("accuracy", scores.main)
            trial.study.tell(trial, scores.main)
        shutil.rmtree(where)  # thirty snapshots are not wanted

    def _latencies(self, recipes: Mapping[str, Recipe]) -> dict[str, float]:
        """Measure the median seconds of one image in torch on the CPU, folded, in turns."""
        models = {name: deploy(create(recipe.config).eval()) for name, recipe in recipes.items()}
        data = next(iter(recipes.values())).data
        image = torch.randn(1, data.channels, *data.image)
        with threads_set(self.asked.threads), torch.inference_mode():
            found = alternate([lambda m=m: m(image) for m in models.values()], seconds=0.5)
        return {name: one.p50_s for name, one in zip(models, found, strict=True)}

    def _facts(
        self,
        names: Sequence[str],
        arms: Mapping[str, Subject],
        trials: Mapping[tuple[str, int], Any],
        latencies: Mapping[str, float],
        images: Read,
    ) -> StudyFacts:
        seeds = range(self.asked.seeds)
        told = {key: trial.user_attrs for key, trial in trials.items()}
        values = {name: [told[name, seed]["accuracy"] for seed in seeds] for name in names}
        gaps = effects(values, self.plan.baseline)
        return StudyFacts(
            name=self.asked.name,
            title=self.plan.title,
            question=self.plan.question,
            data=self.asked.data,
            baseline=self.plan.baseline,
            images=(len(images.workshop.split.train), told[names[0], 0]["images"]),
            size=next(iter(arms.values())).image,
            seeds=self.asked.seeds,
            epochs=self.asked.epochs,
            machine=to_json(machine()),
            threads=self.asked.threads,
            arms=[
                ArmFacts(
                    name=name,
                    note=self.plan.arms[name].note,
                    family=arms[name].family,
                    params=arms[name].params,
                    macs=arms[name].macs,
                    latency_s=latencies[name],
                    train_s=sum(told[name, seed]["seconds"] for seed in seeds) / len(seeds),
                    accuracies=values[name],
                    difference=gaps[name].mean if name in gaps else None,
                    low=gaps[name].low if name in gaps else None,
                    high=gaps[name].high if name in gaps else None,
                    clear=name in gaps and gaps[name].clear,
                )
                for name in names
            ],
        )


def _trials(path: Path, name: str, pairs: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Any]:
    """Return a trial of the study in a file for each pair of arm and seed, new or found there."""
    import optuna

    kept = open_study(path, name)
    found = {}
    for t in kept.get_trials(deepcopy=False):
        _check(path, t.user_attrs)
        key = t.user_attrs["arm"], t.user_attrs["seed"]
        found[key] = optuna.trial.Trial(kept, t._trial_id)
    for arm, seed in pairs:
        if (arm, seed) not in found:
            with speaking(path):
                trial = kept.ask()
                trial.set_user_attr("arm", arm)
                trial.set_user_attr("seed", seed)
            found[arm, seed] = trial
    return {pair: found[pair] for pair in pairs}


def _check(path: Path, told: Mapping[str, Any]) -> None:
    """Raise RunError unless a trial says what every trial of a study says."""
    kinds = {"arm": str, "seed": int, "accuracy": float, "seconds": float, "images": int}
    for name, kind in kinds.items():
        value = told.get(name)
        needed = name in ("arm", "seed") or (name != "accuracy" and "accuracy" in told)
        if type(value) is not kind and (needed or value is not None):
            raise RunError(
                f"{path} is damaged ({name} of a trial is {shortened(repr(value))}): restore it, "
                "or start a new study without --resume"
            )
