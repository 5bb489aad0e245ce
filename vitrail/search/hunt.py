"""A search that may be stopped at any moment: what was evaluated stands in an Optuna study.

A generation is asked for with what the earlier ones gave, so a search that goes on asks for the
same candidates and leaves out those that are in the study already. Machines that share the study
agree on each generation, evaluate it together, and wait for each other before the next; the task of
one that was killed is taken over. So many machines evaluate the candidates that one would have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.config import parse, to_json
from vitrail.errors import ConfigError, RunError
from vitrail.search.board import PULSE, SAID, Board, Pulse
from vitrail.search.entry import damaged
from vitrail.search.spaces.space import Genes
from vitrail.search.strategies import Found, Ground, Strategy

# Evaluates a candidate.
Judge = Callable[[Genes], Found]


class Hunt:
    """The study `name` in a file, or at the URL of a database that machines share; `owner` is who
    hunts here, `storage` that of `where` if it is open already. What the machines agree on is in a
    second study, "`name` plans".
    """

    def __init__(
        self,
        where: Path | str,
        name: str,
        owner: str = "",
        *,
        pulse: Pulse = PULSE,
        storage: Any = None,
    ) -> None:
        self.where = where
        self.board = Board(where, name, owner, pulse, storage)
        self.plans = Board(where, f"{name} plans", owner, pulse, self.board.storage)

    def found(self) -> list[Found]:
        """Return all that were evaluated, in the order in which they were proposed.

        Raises RunError for a damaged study.
        """
        try:
            found = [parse(Found, one.user_attrs[SAID]) for one in self.board.finished()]
        except (ConfigError, KeyError) as error:
            raise damaged(self.where, str(error)) from error
        places: dict[Genes, int] = {}
        for generation in range(1 + max((one.generation for one in found), default=-1)):
            for genes in self._planned(generation) or ():
                places.setdefault(genes, len(places))
        return sorted(found, key=lambda one: places.get(one.genes, len(places)))

    def run(
        self,
        strategy: Strategy,
        ground: Ground,
        judge: Judge,
        *,
        enough: Callable[[list[Found]], bool],
    ) -> list[Found]:
        """Evaluate what the strategy proposes, until it proposes nothing or it is `enough`.

        What is enough to one of several machines ends the search of all; each finishes what it has
        begun. Raises RunError where not one candidate is allowed.
        """
        generation = 0
        while not self._over(enough) and self._proposed(strategy, ground, generation):
            self._evaluated(generation, judge, enough)
            generation += 1
        while self.board.working():
            self.board.wait()
        if not (found := self.found()):
            raise RunError("no candidate was found within the limits: give larger ones")
        return found

    def _proposed(self, strategy: Strategy, ground: Ground, generation: int) -> bool:
        """Agree on a generation; False at the end of the search."""

        def proposed() -> list[Genes]:
            earlier = [one for one in self.found() if one.generation < generation]
            return strategy.propose(ground, earlier, generation)

        return bool(self.plans.once(_plan(generation), proposed))

    def _evaluated(
        self, generation: int, judge: Judge, enough: Callable[[list[Found]], bool]
    ) -> None:
        """Have each candidate of a generation evaluated, here or elsewhere, or until it is over."""
        while True:
            done = {one.genes for one in self.found()}
            left = [genes for genes in self._planned(generation) or () if genes not in done]
            if not left:
                return
            for genes in left:
                if self._over(enough):
                    return
                with self.board.take(" ".join(map(str, genes))) as taken:
                    if taken is not None:
                        kept = replace(judge(genes), generation=generation)
                        taken.finish(to_json(kept), kept.score)
            if self.board.working():
                self.board.wait()

    def _planned(self, generation: int) -> list[Genes] | None:
        said = self.plans.known(_plan(generation))
        try:
            return None if said is None else parse(list[Genes], said)
        except ConfigError as error:
            raise damaged(self.where, str(error)) from error

    def _over(self, enough: Callable[[list[Found]], bool]) -> bool:
        """Tell whether some machine has said that it is enough, or this one does."""
        if self.plans.known("over") is not None:
            return True
        return enough(self.found()) and self.plans.once("over", lambda: True)


def _plan(generation: int) -> str:
    return f"generation {generation}"
