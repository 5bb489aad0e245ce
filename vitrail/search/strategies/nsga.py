"""NSGA-II: a front of score against multiply-adds, by Optuna's sampler.

Deb, Pratap, Agarwal, Meyarivan, IEEE Transactions on Evolutionary Computation 6 (2002).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.errors import ConfigError
from vitrail.search.spaces.space import Genes
from vitrail.search.strategies.strategy import Found, Ground


@dataclass(frozen=True)
class Nsga:
    """Looks for the front of all candidates: the best score for every number of multiply-adds.

    All that was seen is told to the sampler anew, so that a search which was killed goes on with
    the same candidates. One over the limits counts as the worst; one that was seen counts again
    without being evaluated, so a generation may be smaller than `population`.
    """

    population: int = 50
    generations: int = 20

    def __post_init__(self) -> None:
        if self.population < 2 or self.generations < 1:
            raise ConfigError(
                f"population {self.population} and generations {self.generations} make no front: "
                "give 2 and 1 or more"
            )

    def propose(self, ground: Ground, seen: Sequence[Found], generation: int) -> list[Genes]:
        import optuna

        known = {one.genes: (one.score, float(one.cost.macs)) for one in seen}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.NSGAIISampler(
                population_size=self.population, seed=ground.seed
            )
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        space = ground.space
        for _ in range(self.generations):
            new: list[Genes] = []
            for _ in range(self.population):
                trial = study.ask()
                genes = space.canonical(
                    tuple(
                        trial.suggest_categorical(gene.name, range(len(gene.options)))
                        for gene in space.genes
                    )
                )
                if genes in known:
                    study.tell(trial, known[genes])
                elif not ground.allowed(genes):
                    study.tell(trial, (0.0, float("inf")))
                elif genes not in new:
                    new.append(genes)
            if new:
                return new
        return []
