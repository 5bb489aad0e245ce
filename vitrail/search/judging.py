"""What a candidate is worth: on the validation images with inherited weights, or trained alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn

from vitrail.recipes.recipe import Recipe
from vitrail.run.workshop import Workshop, normal
from vitrail.search.costs import Meter
from vitrail.search.spaces.space import Genes, SharedSpace
from vitrail.search.strategies import Found
from vitrail.search.supernets.indices import Rule
from vitrail.tasks.task import Order

# Training images by which the statistics of BatchNorms are taken anew for a candidate.
RECALIBRATED = 512


class Shared(Protocol):
    """A network that hands out weights."""

    def extracted(self, config: Any, rule: Rule | None = None) -> nn.Module: ...


@dataclass(frozen=True, eq=False)
class Inherited:
    """Judges candidates by the weights that they inherit, on the first `limit` validation images.

    A candidate's score is the mean over the rules of its space, as ViTAS scores both sides.
    """

    shared: Shared
    meter: Meter
    workshop: Workshop
    recipe: Recipe
    limit: int

    def __call__(self, genes: Genes) -> Found:
        """Evaluate a candidate."""
        space, workshop = cast(SharedSpace, self.meter.space), self.workshop
        config, scores = space.config(genes), []
        for rule in space.rules:
            model = self.shared.extracted(config, rule)
            self._recalibrate(model)
            scores.append(workshop.validate(model, self.recipe, self.limit))
        main = sum(one.main for one in scores) / len(scores)
        loss = sum(one.loss for one in scores) / len(scores)
        return Found(genes, main, loss, self.meter.cost(genes))

    def _recalibrate(self, model: nn.Module) -> None:
        """Take the statistics of BatchNorms from this candidate's own maps, where it has any."""
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return
        data = self.recipe.data
        pixels = self.workshop.pixels("train", data.image, data.channels)
        batches = self.recipe.task.training(
            pixels, normal(self.recipe), Order(self.recipe.steps.batch, self.recipe.seed)
        )
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.train()
        device = next(model.parameters()).device
        with torch.no_grad():
            number = max(1, min(batches.steps_per_epoch, RECALIBRATED // batches.batch))
            for n in range(number):
                model(batches.get(0, n).images.to(device))
        model.eval()


def sampled(found: Sequence[Found], number: int) -> list[Found]:
    """Return so many candidates from the worst to the best in even steps of rank."""
    ordered = sorted(found, key=lambda one: one.order)
    if number >= len(ordered):
        return ordered
    last = len(ordered) - 1
    return [ordered[round(i * last / max(1, number - 1))] for i in range(number)]


@dataclass(frozen=True)
class Correlation:
    """Kendall's and Spearman's rank correlation of n pairs; None where one side is constant."""

    n: int
    kendall: float | None
    spearman: float | None


def correlation(pairs: Sequence[tuple[float, float]]) -> Correlation:
    """Return how well the order of the first values is that of the second."""
    from scipy.stats import kendalltau, spearmanr

    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    if len({*first}) < 2 or len({*second}) < 2:
        return Correlation(len(pairs), None, None)
    kendall: Any = kendalltau(first, second)
    spearman: Any = spearmanr(first, second)
    return Correlation(len(pairs), float(kendall.statistic), float(spearman.statistic))
