"""A search that may be stopped at any moment: what was evaluated stands in an Optuna study.

A generation is asked for with what the earlier ones gave, so a search that goes on asks for the
same candidates and leaves out those that are in the study already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.config import parse, to_json
from vitrail.errors import ConfigError, RunError
from vitrail.run.storage import open_study, speaking
from vitrail.search.entry import damaged
from vitrail.search.spaces.space import Genes
from vitrail.search.strategies import Found, Ground, Strategy

# Evaluates a candidate.
Judge = Callable[[Genes], Found]


class Hunt:
    """The study `name` in the file `path`."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.study = open_study(path, name)

    def found(self) -> list[Found]:
        """Return all that were evaluated, in their order. Raises RunError for a damaged study."""
        try:
            with speaking(self.path):
                trials = self.study.get_trials(deepcopy=False)
            return [parse(Found, trial.user_attrs["found"]) for trial in trials]
        except (ConfigError, KeyError) as error:
            raise damaged(self.path, str(error)) from error

    def run(
        self,
        strategy: Strategy,
        ground: Ground,
        judge: Judge,
        *,
        enough: Callable[[list[Found]], bool],
    ) -> list[Found]:
        """Evaluate what the strategy proposes, until it proposes nothing or it is `enough`.

        Raises RunError where not one candidate is allowed.
        """
        done = {one.genes: one for one in self.found()}
        generation = 0
        while not enough([*done.values()]):
            earlier = [one for one in done.values() if one.generation < generation]
            proposed = strategy.propose(ground, earlier, generation)
            if not proposed:
                break
            for genes in proposed:
                if genes in done:
                    continue
                if enough([*done.values()]):
                    break
                done[genes] = self._keep(judge(genes), generation)
            generation += 1
        if not done:
            raise RunError("no candidate was found within the limits: give larger ones")
        return [*done.values()]

    def _keep(self, found: Found, generation: int) -> Found:
        import optuna

        kept = replace(found, generation=generation)
        told: Mapping[str, Any] = {"found": to_json(kept)}
        with speaking(self.path):
            self.study.add_trial(
                optuna.trial.create_trial(value=found.score, user_attrs=dict(told))
            )
        return kept
