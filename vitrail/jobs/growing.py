"""PNAS: cells that grow block by block, each judged by a small network that is trained alone."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from typing import Any, cast

from vitrail.jobs.findings import Findings, written
from vitrail.jobs.stages import CHANCE, SEARCH, Line, Stages
from vitrail.report.search_facts import GrowthFacts
from vitrail.run.watch import LOOK_AT, checkpoints
from vitrail.search.candidate import candidate
from vitrail.search.judging import correlation
from vitrail.search.oneshot import FEWEST as FEWEST_STEPS
from vitrail.search.rungs import EFFICIENCY
from vitrail.search.spaces.pnas import PNAS
from vitrail.search.spaces.space import Genes, drawn
from vitrail.search.strategies import Found, Ground, Progressive, Random
from vitrail.search.timing import training_rate

# Of the time for training: small networks of the search, and as many of chance. The network that is
# found has the rest.
SHARE = 0.7
# Steps of a small network below which the order of two means little; with more time there are more
# networks before there are more steps.
WANTED_STEPS = 100
LEAST, MOST = 9, 1160  # trainings of the search; the paper's are the most
SAMPLES = 3


class Growing(Stages):
    """The search of a space of cells that grow."""

    def run(self) -> Findings:
        """Grow cells, train as many random ones of the largest size, and say which is best."""
        bench, meter = self.bench, self.ready.meter
        state, space = bench.state, cast(Any, meter.space)
        bench.view.enter([Line(SEARCH), Line(CHANCE)])
        bench.view.phase("measuring how fast cells are trained")
        with state.phase("search"):
            plan = state.values.get("growth")
            plan = plan or self.sharing.agreed("growth", self._plan(space))
            state.put(growth=plan)
            grow = replace(self.ready.wanted.grow, first=plan["first"], beam=plan["beam"])
            ground = Ground(space, meter.allows, self.limits.seed)
            how = "training small networks of cells that grow"
            half, most = plan["seconds"] / 2, plan["first"] + (space.blocks - 1) * plan["beam"]

            def judge(genes: Genes) -> Found:
                return self._judged(space, genes, plan["steps"])

            searched = self._hunt(SEARCH, grow, ground, judge, (1.5 * half, most), how)
            n, how = len(searched), "training as many random cells"
            chance = self._hunt(CHANCE, Random(n), ground, judge, (1.5 * half, n), how)
        sample = bench.recipe(meter.candidate(searched[0].genes))
        found = Findings(
            self.ready.plain, meter, searched, chance, plan["steps"], state.seconds["search"],
            len(bench.workshop.watched(sample, LOOK_AT)),
            growth=self._told(grow, ground, searched, plan["steps"]),
        )  # fmt: skip
        written(found, bench.folder, self.limits)
        return found

    def _plan(self, space: Any) -> dict[str, Any]:
        """Return how many cells of each size, and for how many steps
        each: what there is time for.
        """
        workshop, rng = self.bench.workshop, random.Random(self.limits.seed)
        sample = self.bench.recipe(self.ready.meter.candidate(space.begun()[0]))
        batch, rates = sample.steps.batch, []
        for _ in range(SAMPLES):
            config = space.small(drawn(space, rng))
            counts = space.count(config)
            one = candidate(config, params=counts.params, macs=counts.macs)
            rates.append(
                training_rate(
                    one, batch=batch, device=workshop.device, precision=sample.steps.precision
                )
            )
        seconds = SHARE * self.bench.state.values["train_s"]
        steps = EFFICIENCY * sorted(rates)[SAMPLES // 2] * seconds / batch / 2
        n = min(MOST, max(LEAST, int(steps / WANTED_STEPS)))
        grow, levels = self.ready.wanted.grow, space.blocks - 1
        beam = grow.beam or max(1, n // (levels + 2))
        first = min(136, grow.first or max(2, n - levels * beam))
        each = max(FEWEST_STEPS, int(steps / (first + levels * beam)))
        return {"first": first, "beam": beam, "steps": each, "seconds": seconds}

    def _judged(self, space: PNAS, genes: Genes, steps: int) -> Found:
        """Train the small network of a cell, and score it on validation images."""
        bench = self.bench
        config, cost = space.small(genes), self.ready.meter.cost(genes)
        small = candidate(config, params=cost.params, macs=cost.macs)
        recipe = bench.recipe(small)
        recipe = replace(recipe, steps=replace(recipe.steps, total=steps, ema=None))
        where = checkpoints(bench.folder.path, "small")
        shutil.rmtree(where, ignore_errors=True)
        outcome = bench.workshop.train(recipe, where, steps)
        scores = bench.workshop.validate(outcome.model, recipe, LOOK_AT)
        shutil.rmtree(where, ignore_errors=True)
        return Found(genes, scores.main, scores.loss, cost)

    def _told(
        self, grow: Progressive, ground: Ground, searched: list[Found], steps: int
    ) -> GrowthFacts:
        """Tell how many networks were trained, and how well predictors
        ranked cells of the next size.
        """
        self.bench.view.phase("asking how well the predictor ranked")
        told = []
        for kind in ("mlp", "lstm"):
            for blocks, pairs in replace(grow, predictor=kind).foretold(ground, searched):
                told.append((kind, blocks, len(pairs), correlation(pairs).spearman))
        sizes = [sum(one.generation == size for one in searched) for size in range(5)]
        return GrowthFacts(steps, [n for n in sizes if n], grow.predictor, told)
