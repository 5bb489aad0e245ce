"""The levels of a search: at each a shared network, candidates of the search and of chance."""

from __future__ import annotations

import math
import shutil
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from vitrail.jobs.findings import Findings, written
from vitrail.jobs.searched import Wanted
from vitrail.jobs.sharing import Sharing
from vitrail.recipes.recipe import Recipe
from vitrail.report.search_facts import PriceFacts
from vitrail.run.folder import RunFolder
from vitrail.run.state import State
from vitrail.run.view import View
from vitrail.run.watch import LOOK_AT, checkpoints
from vitrail.run.workshop import Workshop
from vitrail.search.candidate import Candidate
from vitrail.search.costs import Meter
from vitrail.search.hunt import Judge
from vitrail.search.judging import Inherited, sampled
from vitrail.search.oneshot import FEWEST as FEWEST_STEPS
from vitrail.search.oneshot import SHARED, OneShot, Shares, SinglePath
from vitrail.search.price import Price
from vitrail.search.rungs import EFFICIENCY
from vitrail.search.spaces.space import Genes, Levelled, SharedSpace, Space
from vitrail.search.strategies import Evolve, Found, Ground, Listed, Random, Strategy

# Of the time for training: the shared networks, the searches with chance beside them, and where it
# is asked for the networks that are trained alone. The network that is found has the rest.
SHARED_SHARE, HUNT_SHARE, ALONE_SHARE = 0.4, 0.2, 0.25
# Candidates that are judged for up to twice the time, and whatever the time, so that there is
# something to choose from.
FEWEST, LEAST = 8, 3
SEARCH, CHANCE, ALONE = "search", "random", "alone"


@dataclass(frozen=True, eq=False)
class Ready:
    """What was asked for, the space as it is and fitted to the budget (the meter's), and the
    candidates that a search begins with."""

    wanted: Wanted
    plain: Space
    meter: Meter
    start: tuple[Genes, ...] = ()


@dataclass(frozen=True, eq=False)
class Bench:
    """Where a search works: its folder, what was decided, the view, and who trains; `recipe` makes
    the recipe of a candidate, `paced` a candidate with its training rate; at `end` of the monotonic
    clock all training is to be over."""

    folder: RunFolder
    state: State
    view: View
    workshop: Workshop
    recipe: Callable[[Candidate], Recipe]
    paced: Callable[[Meter, Found], Candidate]
    end: float = math.inf


@dataclass(frozen=True)
class Line:
    """A row of the live view."""

    name: str
    macs: int = 0
    latency_s: float | None = None


class Stages:
    """All levels of one search, one after the other."""

    def __init__(self, ready: Ready, bench: Bench, shared: Sharing) -> None:
        self.ready, self.bench, self.sharing = ready, bench, shared
        self.limits = ready.wanted.limits

    def shares(self) -> Shares:
        """Return what is minimised of a shared network."""
        return SinglePath

    def run(self) -> Findings:
        """Search every level, and train some candidates of the last alone where it is asked for."""
        levels = [found := self._level(self.ready.meter, 1, ())]
        while (space := _levelled(found.meter.space).deeper(found.best.genes)) is not None:
            meter = replace(self.ready.meter, space=space, known={})
            levels.append(found := self._level(meter, len(levels) + 1, levels))
        alone = self._alone(found) if self.ready.wanted.alone else {}
        return replace(found, alone=alone, earlier=tuple(levels[:-1]))

    def _level(self, meter: Meter, number: int, earlier: Any) -> Findings:
        """Train the shared network of a level, search, and look at as many random candidates."""
        bench, state = self.bench, self.bench.state
        end = "" if number == 1 else f"-{number}"
        large = meter.candidate(meter.space.ends[1])
        bench.view.enter([Line(SHARED + end, large.macs), Line(SEARCH + end), Line(CHANCE + end)])
        recipe, share = bench.recipe(large), state.values["train_s"] / self._levels(meter, earlier)
        if self.ready.wanted.alone:
            share *= 1 - ALONE_SHARE
        space = _levelled(meter.space)
        shared, steps = self._shared(space, recipe, SHARED + end, SHARED_SHARE * share)
        judge = Inherited(shared, meter, bench.workshop, recipe, LOOK_AT)
        with state.phase("search"):
            half = self._hunted_s(share)
            ground = Ground(meter.space, meter.allows, self.limits.seed)
            start = self.ready.start if number == 1 else ()
            looks = self.ready.wanted.looks(start=start)
            priced = self._priced(ground, meter)
            searched = self._hunt(SEARCH + end, looks, priced, judge, (half, None))
            n = len(searched)
            chance = self._hunt(CHANCE + end, Random(n), ground, judge, (1.5 * half, n))
        images = len(bench.workshop.watched(recipe, LOOK_AT))
        seconds = state.seconds["shared network"]
        plain = self.ready.plain if number == 1 else meter.space
        found = Findings(plain, meter, searched, chance, steps, seconds, images)
        found = replace(found, price=self._paid(priced, looks, found))
        written(found, bench.folder, self.limits)
        return found

    def _priced(self, ground: Ground, meter: Meter) -> Ground:
        """Return where the search looks: beyond the limits as well where a multiplier enforces
        them."""
        if (multiplier := self.ready.wanted.multiplier) is None:
            return ground
        return replace(ground, allowed=lambda genes: True, price=Price(multiplier, meter.excess))

    def _paid(self, ground: Ground, looks: Strategy, found: Findings) -> PriceFacts | None:
        """Tell what being over the limits cost from generation to generation."""
        if ground.price is None or not isinstance(looks, Evolve):
            return None
        searched = found.searched
        last = max(one.generation for one in searched)
        told = looks.multipliers(ground, searched, last + 1)
        within = sum(map(found.keeps, searched))
        return PriceFacts(self.ready.wanted.enforce, told, within, len(searched))

    def _levels(self, meter: Meter, earlier: Any) -> int:
        """Return how many levels there are: those behind, this one, and those to come."""
        number, space = len(earlier) + 1, _levelled(meter.space)
        while (space := space.deeper(space.ends[0])) is not None:
            number += 1
        return number

    def _shared(
        self, space: SharedSpace, recipe: Recipe, name: str, seconds: float
    ) -> tuple[Any, int]:
        bench, view = self.bench, self.bench.view
        view.phase("training the shared network")
        view.update(name, status="training")
        folder = checkpoints(bench.folder.path, name)
        with bench.state.phase("shared network"):
            one_shot = OneShot(
                space, recipe, bench.workshop, folder, name, self.shares(), self.sharing.agreed
            )
            shared = one_shot.trained(
                bench.state, seconds, lambda step, total: view.step(name, step, total)
            )
        steps = int(bench.state.finals[name]["total"])
        view.update(name, status="trained", steps=steps)
        return shared, steps

    def _hunted_s(self, share: float) -> float:
        """Return the seconds of one strategy: less where time was lost, so that the network which
        is found keeps its share of what is left."""
        left = max(0.0, self.bench.end - clock.monotonic())
        return HUNT_SHARE / 2 * min(share, left / (1 - SHARED_SHARE))

    def _hunt(
        self,
        name: str,
        strategy: Strategy,
        ground: Ground,
        judge: Judge,
        limits: tuple[float, int | None],
        how: str = "judging candidates with inherited weights",
    ) -> list[Found]:
        """Run one strategy for so many seconds, or up to a number of candidates."""
        view, (seconds, most) = self.bench.view, limits
        stop, shown = clock.monotonic() + seconds, -1
        view.phase(f"{name}: {how}")

        def enough(found: list[Found]) -> bool:
            nonlocal shown
            if len(found) != shown:
                shown = len(found)
                view.step(name, shown, most or 0)
                best = max((one.score for one in found), default=None)
                view.update(name, accuracy=best, steps=shown, status="searching")
            if most is not None and len(found) >= most:
                return True
            return is_over(len(found), clock.monotonic() - stop, seconds)

        found = self.sharing.hunt(name).run(strategy, ground, judge, enough=enough)
        view.update(name, status="done", steps=len(found))
        return found

    def _alone(self, found: Findings) -> dict[str, Any]:
        """Train some candidates from scratch, all for as many steps; their scores by genes."""
        bench, state = self.bench, self.bench.state
        some = sampled(found.every, self.ready.wanted.alone)
        bench.view.enter([Line(ALONE)])
        with state.phase("trained alone"):
            if (steps := state.values.get("alone")) is None:
                rates = [bench.paced(found.meter, one).rate or 1.0 for one in some]
                batch = bench.recipe(found.meter.candidate(some[0].genes)).steps.batch
                each = ALONE_SHARE * state.values["train_s"] / len(some)
                steps = max(FEWEST_STEPS, int(EFFICIENCY * min(rates) * each / batch))
                state.put(alone=(steps := self.sharing.agreed("alone", steps)))

            def judge(genes: Genes) -> Found:
                return self._trained_alone(found.meter, genes, steps)

            listed = Listed(tuple(one.genes for one in some))
            ground = Ground(found.meter.space, found.meter.allows, self.limits.seed)
            limits, how = (math.inf, len(some)), "training networks by themselves"
            scores = self._hunt(ALONE, listed, ground, judge, limits, how)
        told = {" ".join(map(str, one.genes)): one.score for one in scores}
        return {"steps": steps, "scores": told}

    def _trained_alone(self, meter: Meter, genes: Genes, steps: int) -> Found:
        bench = self.bench
        recipe = bench.recipe(meter.candidate(genes))
        recipe = replace(recipe, steps=replace(recipe.steps, total=steps, ema=None))
        where = checkpoints(bench.folder.path, "alone")
        shutil.rmtree(where, ignore_errors=True)
        outcome = bench.workshop.train(recipe, where, steps)
        scores = bench.workshop.validate(outcome.model, recipe, LOOK_AT)
        shutil.rmtree(where, ignore_errors=True)
        return Found(genes, scores.main, scores.loss, meter.cost(genes))


def is_over(judged: int, late_s: float, planned_s: float) -> bool:
    """Return whether a strategy that was given `planned_s` seconds, which ended `late_s` ago (below
    0: which are not over), has judged enough candidates.

    >>> is_over(8, 0.1, 60.0), is_over(7, 0.1, 60.0), is_over(3, 61.0, 60.0)
    (True, False, True)
    """
    return late_s > 0 and (judged >= FEWEST or (judged >= LEAST and late_s > planned_s))


def _levelled(space: Space) -> Levelled:
    return cast(Levelled, space)
