"""The race: successive halving over candidates, on one clock, stored in an Optuna study.

A rung gives every candidate that is still in it the same wall time, not the same number of
steps: a small fast model sees more images than a large slow one, which is how it will be in
a training of limited time. The time becomes a number of steps, by the rate measured before,
and is written down, so that a race that was stopped goes on exactly.

What a candidate trains is the beginning of its full training: until `hold` the learning rate
does not depend on when the training ends. So the winner goes on from where it is, and the
race has cost it nothing. Candidates are compared on the validation part, with their weights or
the average of these, whichever is better. Since a large model may be behind at first, the last
rung keeps two families. Whoever is far behind goes no further, and where one is left the race
ends: the time is better spent on its training.

Jamieson and Talwalkar, AISTATS 2016, arXiv 1502.07943; with several machines on one study it
is asynchronous as Li et al., MLSys 2020, arXiv 1810.05934: each machine takes candidates that
nobody has, and compares its own with those of all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.config import parse
from vitrail.errors import ConfigError
from vitrail.recipes.recipe import Recipe
from vitrail.run.storage import open_study, speaking
from vitrail.run.view import View
from vitrail.run.watch import LOOK_AT, checkpoints
from vitrail.run.workshop import Workshop
from vitrail.search import entry
from vitrail.search.rungs import Runner, keep, rung_sizes
from vitrail.training.loop import Outcome


class Race:
    """A study in `folder`/study.sqlite, or at the URL `storage`, and the runners of this run."""

    def __init__(self, folder: Path, *, name: str, owner: str, storage: str | None = None) -> None:
        self.folder, self.owner, self.local = folder, owner, storage is None
        self.where = storage or folder / "study.sqlite"
        self.study = open_study(self.where, name)

    @property
    def entered(self) -> bool:
        """Return whether the candidates are in the study already."""
        with speaking(self.where):
            return "candidates" in self.study.user_attrs

    def enter(self, runners: Sequence[Runner]) -> None:
        """Put the candidates into the study, for every machine that joins it."""
        if self.entered:
            return
        for runner in runners:
            self.study.enqueue_trial(
                {"candidate": runner.candidate.name},
                user_attrs=entry.entered(runner),
                skip_if_exists=True,
            )
        self.study.set_user_attr("candidates", [r.candidate.name for r in runners])

    def run(
        self, workshop: Workshop, view: View, *, deadline: float, localise: Callable[..., Recipe]
    ) -> list[Runner]:
        """Race until one is left, or until `deadline` (of time.monotonic()).

        `localise` maps a recipe of the study to this machine. Returns this run's runners, the
        best first.
        """
        names = self._names()
        sizes = rung_sizes(len(names))
        mine = self._mine(localise)
        for runner in mine:
            _show(view, runner, sizes)
        for rung in range(len(sizes)):
            entrants = [r for r in mine if r.rung >= rung - 1] if rung else mine
            if rung:
                standings = [r for r in self._all(localise) if r.rung >= rung - 1]
                kept = {r.trial for r in keep(standings, sizes[rung], last=rung == len(sizes) - 1)}
                for runner in entrants:
                    if runner.trial not in kept and runner.rung == rung - 1:
                        view.update(runner.candidate.name, status="stopped")
                entrants = [r for r in entrants if r.trial in kept or r.rung >= rung]
                if len(kept) == 1:
                    break
            queue = [r for r in entrants if r.rung < rung]
            while True:
                started = any(r.rung >= rung for r in mine)
                if started and time.monotonic() > deadline:
                    break
                if queue:
                    runner = queue.pop(0)
                elif rung == 0 and (claimed := self._claim(names, localise)):
                    runner = claimed
                    mine.append(runner)
                else:
                    break
                moved = self._advance(runner, rung, workshop, view)
                mine[[r.trial for r in mine].index(runner.trial)] = moved
                _show(view, moved, sizes)
        return sorted(mine, key=lambda r: r.order, reverse=True)

    def finish(self, runners: Sequence[Runner], winner: Runner) -> None:
        """Close the trials of this run: the winner complete, the others pruned."""
        import optuna

        states = optuna.trial.TrialState
        known = {t.number: t for t in self.study.get_trials(deepcopy=False)}
        for runner in runners:
            if runner.accuracy is None or known[runner.trial].state.is_finished():
                continue
            if runner.trial == winner.trial:
                self.study.tell(runner.trial, runner.accuracy, state=states.COMPLETE)
            else:
                self.study.tell(runner.trial, state=states.PRUNED)

    def _advance(self, runner: Runner, rung: int, workshop: Workshop, view: View) -> Runner:
        view.update(runner.candidate.name, status="racing", steps=runner.done)
        until = self._until(runner, rung, workshop, view)
        outcome, _ = self._train(runner, until, workshop, view)
        _, scores = workshop.better(outcome, runner.recipe, LOOK_AT)
        trial = self._trial(runner.trial)
        rate = outcome.samples_per_s if outcome.samples_per_s > 0 else runner.rate
        trial.set_user_attr(f"rung{rung}", {"loss": scores.loss, "rate": rate, "n": scores.n})
        trial.report(scores.main, rung)
        steps = (*runner.steps[:rung], until, *runner.steps[rung + 1 :])
        return replace(
            runner, steps=steps, rung=rung, accuracy=scores.main, loss=scores.loss, rate=rate,
            judged=scores.n,
        )  # fmt: skip

    def _train(
        self, runner: Runner, until: int, workshop: Workshop, view: View
    ) -> tuple[Outcome, int]:
        """Train up to step `until`; returns how many steps that took as well."""
        name, made = runner.candidate.name, []

        def on_step(step: int, loss: float, lr: float, rate: float) -> None:
            made.append(step)
            view.step(name, step, until)

        outcome = workshop.train(runner.recipe, checkpoints(self.folder, name), until, on_step)
        return outcome, len(made)

    def _until(self, runner: Runner, rung: int, workshop: Workshop, view: View) -> int:
        """Return the last step of a rung: as planned, or fewer where the machine is slower now.

        An eighth of the steps tells the pace, so that beside other programs a candidate takes the
        time that it was given and not the others'. What was decided is written down before it is
        acted upon.
        """
        trial, planned = self._trial(runner.trial), runner.steps[rung]
        key = f"until{rung}"
        if key in trial.user_attrs:
            return runner.steps[rung]
        until, begin = planned, runner.done
        probe = begin + max(4, (planned - begin) // 8)
        if runner.seconds and probe < planned:
            started = time.monotonic()
            _, made = self._train(runner, probe, workshop, view)
            spent = time.monotonic() - started
            before = runner.seconds[rung - 1] if rung else 0.0
            left = max(0.0, runner.seconds[rung] - before - spent)
            if made > 2:
                until = min(planned, probe + int(left * made / spent))
        trial.set_user_attr(key, until)
        return until

    def _names(self) -> list[str]:
        try:
            return parse(list[str], self.study.user_attrs["candidates"], "candidates")
        except ConfigError as error:
            raise entry.damaged(self.where, str(error)) from error

    def _trial(self, number: int) -> Any:
        import optuna

        known = {t.number: t._trial_id for t in self.study.get_trials(deepcopy=False)}
        return optuna.trial.Trial(self.study, known[number])

    def _claim(self, names: Sequence[str], localise: Callable[..., Recipe]) -> Runner | None:
        """Return a candidate that nobody has taken yet, None when all are taken."""
        import optuna

        waiting = (optuna.trial.TrialState.WAITING,)
        if not self.study.get_trials(deepcopy=False, states=waiting):
            return None
        trial = self.study.ask()
        trial.suggest_categorical("candidate", names)
        if "candidate" not in trial.user_attrs:
            # Another machine took the last one between the two lines above.
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        trial.set_user_attr("run", self.owner)
        return entry.runner(trial, localise, self.where, begun=False)

    def _mine(self, localise: Callable[..., Recipe]) -> list[Runner]:
        return [r for r, owner in self._taken(localise) if owner == self.owner or self.local]

    def _all(self, localise: Callable[..., Recipe]) -> list[Runner]:
        return [r for r, _ in self._taken(localise)]

    def _taken(self, localise: Callable[..., Recipe]) -> list[tuple[Runner, str | None]]:
        import optuna

        untaken = (optuna.trial.TrialState.WAITING, optuna.trial.TrialState.FAIL)
        with speaking(self.where):
            trials = self.study.get_trials(deepcopy=False)
        return [
            (entry.runner(t, localise, self.where), t.user_attrs.get("run"))
            for t in trials
            if t.state not in untaken and "candidate" in t.user_attrs
        ]


def _show(view: View, runner: Runner, sizes: Sequence[int]) -> None:
    view.update(
        runner.candidate.name,
        status="racing" if runner.rung < len(sizes) - 1 else "finalist",
        accuracy=runner.accuracy,
        steps=runner.done,
    )
