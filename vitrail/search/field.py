"""Everybody who took part in a search, as the report tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vitrail.recipes.recipe import Recipe
from vitrail.report.facts import CandidatePoint, Clock
from vitrail.run.budget import Budget
from vitrail.search.candidate import Candidate
from vitrail.search.first_rung import Probed
from vitrail.search.rungs import Runner
from vitrail.units import percent


@dataclass(frozen=True)
class Field:
    """All that took part in a search: runners, those over the budget, and who won.

    `runners` begin with the best; `misses` are the latencies of those whose exported file was too
    slow, by name. All latencies include the resize of a picture of the `budget`. The winner's
    multiply-adds are those at the setting of its dial, where it has one. `probes` are linear models
    on the features of a shelf.
    """

    runners: Sequence[Runner]
    over: Sequence[Candidate]
    misses: Mapping[str, float]
    winner: Runner
    budget: Budget
    probes: Sequence[Probed] = ()

    def points(self, latency_s: float, accuracy: float, steps: int) -> list[CandidatePoint]:
        """Return all candidates with what became of them; the winner with its final figures."""
        points = []
        winner, misses = self.winner, self.misses
        for runner in self.runners:
            one, status = runner.candidate, "stopped"
            seen, trained, wait = runner.accuracy, runner.done, one.with_resize_s(self.budget)
            if one.name == winner.candidate.name:
                one = winner.candidate
                status, seen, trained, wait = "won", accuracy, steps, latency_s
            elif one.name in misses:
                status, wait = "over budget", misses[one.name]
            elif seen is None:
                status = "not tried"
            elif runner.rung == winner.rung:
                status = "finished"
            timed: Clock = "exported" if status == "won" or one.name in misses else "torch"
            points.append(_point(one, wait, seen, trained, status, timed))
        points += [
            replace(
                _point(p.candidate, None, p.accuracy, 0, "features"),
                name=f"{p.candidate.name}-features",
                title=f"{p.candidate.title}, features",
            )
            for p in self.probes
        ]
        points += [
            _point(one, one.with_resize_s(self.budget), None, 0, "over budget") for one in self.over
        ]
        return points

    def pretrained(self) -> Recipe | None:
        """Return the recipe of the best runner that starts from published weights, if one does."""
        return next((r.recipe for r in self.runners if r.candidate.pretrained), None)


def brought(runners: Sequence[Runner]) -> str | None:
    """Say what pretrained weights brought in the race; None where it had not both kinds."""
    seen = [(r.accuracy, r.rung, r.candidate) for r in runners if r.accuracy is not None]
    with_, without = (
        max(
            ((rung, right, one.title) for right, rung, one in seen if bool(one.pretrained) is kind),
            default=None,
        )
        for kind in (True, False)
    )
    if with_ is None or without is None:
        return None
    ahead = 100 * (with_[1] - without[1])
    more = "more" if ahead >= 0 else "fewer"
    return (
        f"in the race the best start from given weights ({with_[2]}) reached {percent(with_[1])}, "
        f"the best from scratch ({without[2]}) {percent(without[1])}: {abs(ahead):.1f} points "
        f"{more}, in rounds {with_[0] + 1} and {without[0] + 1} of equal time"
    )


def _point(
    one: Candidate,
    latency_s: float | None,
    accuracy: float | None,
    steps: int,
    status: str,
    clock: Clock = "torch",
) -> CandidatePoint:
    return CandidatePoint(
        one.name,
        one.family,
        one.params,
        one.macs,
        latency_s,
        accuracy,
        steps,
        status,
        one.image,
        clock=clock,
        title=one.title,
    )
