"""What a fit has decided so far, on disk, so that `--resume` goes on with it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitrail.errors import RunError
from vitrail.run.folder import RunFolder
from vitrail.run.view import View


class State:
    """`fit.json` of a run folder: arguments, decisions, and the seconds of each phase.

    The time limit is one of work: what was spent before a stop counts, the pause does not.
    """

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self.values = path, values
        self._spent, self._began = float(values.get("spent_s", 0.0)), time.monotonic()

    @classmethod
    def new(cls, path: Path, **values: Any) -> State:
        """The state of a fit that begins, with what is known of it."""
        state = cls(path, {"spent_s": 0.0, "seconds": {}, "finals": {}} | values)
        state.save()
        return state

    @classmethod
    def read(cls, path: Path) -> State:
        """The state that was saved. Raises RunError."""
        try:
            return cls(path, json.loads(path.read_text()))
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(
                f"{path.parent} is no fit that can be resumed ({path.name} cannot be read): start "
                "a new one without --resume"
            ) from error

    def require_images(self, digest: str) -> None:
        """RunError unless the images are those that the fit began with."""
        if self.values.get("images") != digest:
            raise RunError(
                f"the images are not those that {self.path.parent} began with (some were added, "
                "removed or changed): restore them, or start a new run"
            )

    @property
    def spent_s(self) -> float:
        """Seconds of work so far."""
        return self._spent + time.monotonic() - self._began

    def deadline(self, seconds: float) -> float:
        """The time.monotonic() at which `seconds` of work are over."""
        return time.monotonic() + seconds - self.spent_s

    @property
    def finals(self) -> dict[str, Any]:
        """Decided steps of full trainings, by candidate."""
        return self.values["finals"]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each phase."""
        return self.values["seconds"]

    def decide(self, name: str, plan: dict[str, Any]) -> None:
        """Write down how far a candidate is trained, before it is."""
        self.finals[name] = plan
        self.save()

    def put(self, **values: Any) -> None:
        """Write down further decisions."""
        self.values.update(values)
        self.save()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The time inside counts as that of a phase."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
            self.save()

    def save(self) -> None:
        """To disk, whole or not at all. Raises RunError when it cannot be written."""
        self.values["spent_s"] = self.spent_s
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            part.write_text(json.dumps(self.values, indent=1))
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise RunError(
                f"{self.path} cannot be written ({error.strerror}): free some space, then go on "
                "with --resume"
            ) from error


def resumed(
    out: str | os.PathLike | None, view: View, go_on: Callable[[RunFolder, State], Path]
) -> Path:
    """What `go_on` makes of the run in `out`, or the run itself if it is finished already.

    Raises RunError when `out` is not given or holds no run that can go on.
    """
    if out is None:
        raise RunError("--resume needs the run folder to go on with: add --out RUN")
    with RunFolder.create(out, resume=True) as run:
        state = State.read(run.path / "fit.json")
        if run.result.is_file():
            view.console.print(f"{run.path} is finished: see {run.report}", soft_wrap=True)
            return run.path
        return go_on(run, state)
