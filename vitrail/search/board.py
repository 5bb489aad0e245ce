"""Who does what where several machines share a study: the first to take a task has it.

A task is a trial. The database numbers trials under a lock, so where two machines take one task at
once the lower number has it, and the other withdraws. Whoever works beats in an attribute of the
trial; a trial that is not heard of for a while is failed, and the task is anyone's again. Nobody's
clock is compared with another's: each machine counts by its own how long it heard nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from vitrail.errors import RunError
from vitrail.run.storage import open_study, speaking

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

TASK, OWNER, SAID, BEAT = "task", "run", "found", "beat"


@dataclass(frozen=True)
class Pulse:
    """How often who works says so, how long it may be silent, and how often others look, in s."""

    beat_s: float = 5.0
    silence_s: float = 60.0
    look_s: float = 0.5


PULSE = Pulse()


@dataclass(eq=False)
class Taken:
    """A task that this machine has; `finish` says what came of it."""

    board: Board
    trial: int
    ended: bool = False

    def finish(self, said: Any, score: float = 0.0) -> bool:
        """Write down what was found. Returns False where the task was given to another, because
        nothing was heard of this machine for too long."""
        return self.board.close(self, said, score)


@dataclass(eq=False)
class Board:
    """The study `name` in a file of the run folder, or at the URL `where` that machines share.

    `owner` is who works here; tasks that it left unfinished are anyone's again. `storage` is that
    of `where` if it is open already. Raises RunError where the study cannot be used.
    """

    where: Path | str
    name: str
    owner: str = ""
    pulse: Pulse = PULSE
    storage: Any = None
    heard: dict[int, tuple[Any, float]] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.study = open_study(self.where, self.name, self.storage)
        self.storage = self.study._storage
        for trial in self._trials():
            own = not self.shared or trial.user_attrs.get(OWNER) == self.owner
            if own and not trial.state.is_finished():
                self._fail(trial._trial_id)

    @property
    def shared(self) -> bool:
        """Tell whether other machines may be at work."""
        return not isinstance(self.where, Path)

    def finished(self) -> list[FrozenTrial]:
        """Return the trials of tasks that are done, in their order."""
        return [one for one in self._trials() if one.state.name == "COMPLETE"]

    def working(self) -> list[FrozenTrial]:
        """Return the trials of tasks that somebody works at, and fail those of whom nothing is
        heard."""
        return self._working(self._trials())

    def _working(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        now, found = time.monotonic(), []
        for trial in trials:
            if trial.state.is_finished():
                continue
            beat = trial.user_attrs.get(BEAT)
            last, since = self.heard.setdefault(trial._trial_id, (beat, now))
            if beat != last:
                self.heard[trial._trial_id] = beat, now
            elif now - since > self.pulse.silence_s:
                self._fail(trial._trial_id)
                continue
            found.append(trial)
        return found

    @contextmanager
    def take(self, task: str) -> Iterator[Taken | None]:
        """Give a task to this machine: None where it is done, or another has it.

        What is not finished inside is anyone's again.
        """
        taken = self._take(task)
        if taken is None:
            yield None
            return
        quiet = Event()
        beats = Thread(target=self._beat, args=(taken, quiet), daemon=True)
        if self.shared:
            beats.start()
        try:
            yield taken
        finally:
            quiet.set()
            if self.shared:
                beats.join()
            if not taken.ended:
                self._fail(taken.trial)

    def once(self, task: str, make: Callable[[], Any]) -> Any:
        """Return what was said of a task: by `make` on one machine, and the same on all."""
        while (said := self.known(task)) is None:
            with self.take(task) as taken:
                if taken is not None:
                    taken.finish(make())
                    continue
            self.wait()
        return said

    def known(self, task: str) -> Any:
        """Return what was said of a task, which does not change; None where it is not done."""
        if task not in self.said:
            for trial in self.finished():
                self.said[str(trial.user_attrs.get(TASK))] = trial.user_attrs.get(SAID)
        return self.said.get(task)

    def wait(self) -> None:
        """Let others work for a moment."""
        self.working()
        time.sleep(self.pulse.look_s)

    def close(self, taken: Taken, said: Any, score: float) -> bool:
        """Write down what came of a task; False where it is no longer this machine's."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        taken.ended = True
        try:
            with speaking(self.where):
                self.storage.set_trial_user_attr(taken.trial, SAID, said)
                self.storage.set_trial_state_values(taken.trial, TrialState.COMPLETE, [score])
        except RunError as error:
            if isinstance(error.__cause__, UpdateFinishedTrialError):
                return False
            raise
        return True

    def _take(self, task: str) -> Taken | None:
        from optuna.trial import TrialState, create_trial

        if self._others(task):
            return None
        attributes = {TASK: task, OWNER: self.owner, BEAT: 0}
        with speaking(self.where):
            trial = self.storage.create_new_trial(
                self.study._study_id, create_trial(state=TrialState.RUNNING, user_attrs=attributes)
            )
        if self.shared and any(one._trial_id < trial for one in self._others(task)):
            self._fail(trial)
            return None
        return Taken(self, trial)

    def _others(self, task: str) -> list[FrozenTrial]:
        """Return the trials of a task that are done, or at which somebody works."""
        trials = [one for one in self._trials() if one.user_attrs.get(TASK) == task]
        return [*(one for one in trials if one.state.name == "COMPLETE"), *self._working(trials)]

    def _beat(self, taken: Taken, quiet: Event) -> None:
        """Say every few seconds that this machine works. Where that fails, because the database is
        gone or the task another's, the end of the task finds it out."""
        number = 0
        while not quiet.wait(self.pulse.beat_s):
            number += 1
            try:
                with speaking(self.where):
                    self.storage.set_trial_user_attr(taken.trial, BEAT, number)
            except RunError:
                return

    def _trials(self) -> list[FrozenTrial]:
        with speaking(self.where):
            return self.study.get_trials(deepcopy=False)

    def _fail(self, trial: int) -> None:
        """Give a task up, unless it was ended by another already."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            with speaking(self.where):
                self.storage.set_trial_state_values(trial, TrialState.FAIL)
        except RunError as error:
            if not isinstance(error.__cause__, UpdateFinishedTrialError):
                raise
