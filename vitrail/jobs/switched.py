"""A run of fewer GELUs and softmaxes, for computing on secrets, made of a finished one.

The run's model gets PriViT's switches, weights and switches are trained together until the budgets
are met, then the weights alone; what comes out is an ordinary run whose recipe names the method.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from torch import nn

from vitrail.config import to_json
from vitrail.errors import BudgetError
from vitrail.jobs.cutting import RANDOM, Asked
from vitrail.jobs.making import Making
from vitrail.layers.switches import counts, switches
from vitrail.methods import PriViT
from vitrail.methods.private_cost import LAN, WAN, Operations, operations
from vitrail.objectives import Switching
from vitrail.recipes.recipe import Recipe
from vitrail.report import switched as report
from vitrail.report.facts import Facts
from vitrail.report.switched import Private, Switches
from vitrail.run.before import Before, now, worth
from vitrail.run.finish import Addition, Trained, conclude, ship
from vitrail.run.stopping import interruptible
from vitrail.run.subject import subject
from vitrail.run.watch import Watched
from vitrail.training.optimizer import AdamW, Muon
from vitrail.training.schedule import Schedule
from vitrail.units import parse_count

# A training that goes on learns at a fifth of the rate at which one begins; where that is not one
# of AdamW's, at the authors' (with their weight decay).
SLOWER, RATE, DECAY = 5, 1e-4, 1e-4
# Half of the steps are joint, in so many intervals. A switch that is always pushed down goes off
# after a quarter of them, as the authors' does after 10,000 steps.
JOINT, INTERVALS, REACHES = 0.5, 50, 4
# Multipliers begin higher than the authors', who let them rise over hundreds of epochs.
FIRST = 1e-3
# The authors' least fall of softmaxes: 200 of 7,092 rows an interval.
FALL = 200 / 7092


def wanted(old: Before, gelus: str | int | None, softmaxes: str | int | None) -> tuple[int, int]:
    """Read how many GELUs and softmaxes may stay on: numbers, or shares of what the model has.

    What is None keeps all of its kind. Raises ConfigError for a model without them, BudgetError
    where nothing would go.
    """
    PriViT().check(old.model)
    whole = counts(_with_switches(old.model))
    found = (
        _number("--gelus", gelus, whole[0], "tokens of GELU"),
        _number("--softmaxes", softmaxes, whole[1], "rows of softmax"),
    )
    if found == whole:
        raise BudgetError(
            f"all {whole[0]} tokens of GELU and {whole[1]} rows of softmax would stay: give "
            "--gelus 25%, --softmaxes 25%, or both"
        )
    return found


def _number(option: str, text: str | int | None, whole: int, of: str) -> int:
    if text is None:
        return whole
    share = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", str(text))
    none = str(text).strip() == "0"
    value = int(float(share[1]) / 100 * whole) if share else 0 if none else parse_count(text)
    if value > whole:
        raise BudgetError(f"{option} {text} is {value}, and the model has {whole} {of}: give 0 to "
                          f"{whole}")  # fmt: skip
    return value


def _with_switches(model: nn.Module) -> nn.Module:
    """Return a copy of a model with all its switches on."""
    return PriViT().apply(deepcopy(model))


def switched_recipe(before: Before, asked: Asked, images: int) -> Recipe:
    """Return how weights and switches are trained: by the run's recipe, taught by the run."""
    old = before.recipe
    assert asked.gelus is not None and asked.softmaxes is not None
    total, rate = old.steps.total, RATE
    if asked.epochs is not None:
        total = max(2, round(asked.epochs * max(1, images // old.steps.batch)))
    if isinstance(old.optimizer, AdamW | Muon):
        rate = old.optimizer.lr / SLOWER
    joint = max(1, round(JOINT * total))
    rows = counts(_with_switches(before.model))[1]
    return replace(
        old,
        steps=replace(old.steps, total=total, ema=None),
        schedule=Schedule(hold=joint),
        optimizer=AdamW(lr=rate, weight_decay=DECAY),
        objective=Switching(
            str(before.run.path), asked.gelus, asked.softmaxes,
            joint=joint,
            interval=max(1, joint // INTERVALS),
            pace=REACHES / (joint * rate),
            first=FIRST,
            fall_softmaxes=max(1, round(FALL * rows)),
            drawn=asked.method == RANDOM,
        ),
        methods=(PriViT(),),
        pretrained=str(before.run.weights),
        keep_head=True,
        seed=asked.seed,
    )  # fmt: skip


class Switched(Making):
    """Learns, or draws, which GELUs and softmaxes stay, tunes the weights, and judges the model."""

    def run(self) -> Path:
        """Do all of it; returns the run folder."""
        path = self.folder.path
        with interruptible(self.again), self.view.shown():
            recipe = switched_recipe(self.before, self.asked, len(self.workshop.split.train))
            self.folder.write_json(self.folder.recipe, to_json(recipe))
            one = subject(recipe.config)
            self.view.enter([one])
            self.view.phase(f"learning which GELUs and softmaxes of {one.name} stay")
            with self.state.phase("training"):
                model, scores = Watched(self.workshop, path, one.name, self.view).to_end(recipe)
            self.view.phase("exporting, testing and reporting")
            trained = Trained(one, recipe, model, scores)
            with self.folder.scratch() as scratch:
                shipped = ship(trained, self.desk(), scratch)
                desk = self.desk(lambda facts: self._added(facts, model, scores.main))
                finished = conclude(trained, shipped, desk, scratch)
        finished.say(self.view.console)
        return path

    def _added(self, facts: Facts, model: nn.Module, tuned: float) -> Addition:
        """Put both models side by side, as they would be computed on secrets."""
        old = _with_switches(self.before.model)
        told = Switches(
            str(self.before.run.path), self.asked.method, worth(self.before), now(facts),
            _predicted(operations(old)), _predicted(operations(model)), counts(old), counts(model),
            (self.before.result["validation"]["accuracy"], tuned), *map(_rows, switches(model)),
        )  # fmt: skip
        return Addition(report.chapter(told), {"compressed": told.to_json()}, self.among(told.now))


def _predicted(found: Operations) -> Private:
    """Return what computing on secrets is predicted to take, in two networks."""
    return Private(
        found.compute_s, found.bytes, found.messages, found.latency_s(LAN), found.latency_s(WAN)
    )


def _rows(kind: list[nn.Parameter]) -> list[list[list[bool]]]:
    """Return for every block its heads' switches, or the one row of its tokens'."""
    return [(one[0].detach() > 0).cpu().reshape(-1, one.shape[-2]).tolist() for one in kind]
