"""BATS: cells learned by gradients, as weights of all operations at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from vitrail.jobs.findings import Findings, written
from vitrail.jobs.stages import ALONE_SHARE, CHANCE, SEARCH, SHARED_SHARE, Line, Stages
from vitrail.report.search_facts import MixtureFacts
from vitrail.run.watch import LOOK_AT
from vitrail.search.judging import Inherited
from vitrail.search.mixture_cost import mixture_cost
from vitrail.search.oneshot import SHARED, Shares
from vitrail.search.relaxed import Priced, Relaxed
from vitrail.search.spaces.bats import BATS
from vitrail.search.strategies import Ground, Random
from vitrail.search.strategies.differentiable import Differentiable, probabilities
from vitrail.search.supernets.bats import CHOICES, NODES, Super
from vitrail.training.objective import Objective

WITHOUT_WEIGHTS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")


class Relaxing(Stages):
    """The search of a space whose candidates are mixed and told apart by gradients."""

    _relaxed: Relaxed | None = None

    def shares(self) -> Shares:
        """Return what is minimised of the mixture; it is kept, since it has the multiplier."""
        space, multiplier = cast(BATS, self.ready.meter.space), self.ready.wanted.multiplier
        price = None
        if multiplier is not None:
            price = Priced(multiplier, mixture_cost(space, self.ready.meter.budget))

        def made(inner: Objective, mixed: Any) -> Relaxed:
            self._relaxed = Relaxed(inner, mixed, price)
            return self._relaxed

        return made

    def run(self) -> Findings:
        """Learn the mixture, and judge its strongest cells, some like them, and random ones."""
        bench, meter = self.bench, self.ready.meter
        state, space = bench.state, cast(Any, meter.space)
        large = meter.candidate(space.ends[1])
        bench.view.enter([Line(SHARED, large.macs), Line(SEARCH), Line(CHANCE)])
        recipe, share = bench.recipe(large), state.values["train_s"]
        if self.ready.wanted.alone:
            share *= 1 - ALONE_SHARE
        trained, steps = self._shared(space, recipe, SHARED, SHARED_SHARE * share)
        mixture = cast(Super, trained)
        normal, reduce = (table.tolist() for table in mixture.mixture())
        strongest = space.strongest((normal, reduce))
        judge = Inherited(mixture, meter, bench.workshop, recipe, LOOK_AT)
        with state.phase("search"):
            half = self._hunted_s(share)
            ground = Ground(space, meter.allows, self.limits.seed)
            chosen = Differentiable(strongest, probabilities((normal, reduce), NODES, len(CHOICES)))
            searched = self._hunt(SEARCH, chosen, ground, judge, (half, None))
            n = len(searched)
            chance = self._hunt(CHANCE, Random(n), ground, judge, (1.5 * half, n))
        free = sum(name in WITHOUT_WEIGHTS for name, _ in self._edges(space, strongest))
        entropy, multiplier = float(mixture.entropy().detach()), None
        if self._relaxed is not None and self._relaxed.price is not None:
            multiplier = float(self._relaxed.multiplier)
        found = Findings(
            self.ready.plain, meter, searched, chance, steps, state.seconds["shared network"],
            len(bench.workshop.watched(recipe, LOOK_AT)), chosen=searched[0],
            mixture=MixtureFacts(
                space.temperature, entropy, free, 4 * NODES, space.searched, multiplier
            ),
        )  # fmt: skip
        written(found, bench.folder, self.limits)
        if self.ready.wanted.alone:
            found = replace(found, alone=self._alone(found))
        return found

    def _edges(self, space: BATS, genes: Any) -> list[tuple[str, int]]:
        config = space.config(genes)
        return [*config.normal, *config.reduce]
