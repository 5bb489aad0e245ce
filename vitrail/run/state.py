"""What a fit has decided so far, on disk, so that `--resume` goes on with it."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from vitrail import files
from vitrail.config import parse, read_json
from vitrail.data.builtin import BUILTIN
from vitrail.errors import ConfigError, RunError
from vitrail.run import place
from vitrail.run.folder import RunFolder
from vitrail.run.view import View
from vitrail.units import shortened

T = TypeVar("T")
NAME = "fit.json"


@dataclass(frozen=True)
class Saved:
    """What fit.json holds, by type; a file may leave out what was not decided yet."""

    spent_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    finals: dict[str, dict[str, int | float | bool]] = field(default_factory=dict)
    misses: dict[str, float] = field(default_factory=dict)
    images: str | None = None
    arguments: dict[str, Any] | None = None
    shortlist: dict[str, Any] | None = None
    race_s: float | None = None
    train_s: float | None = None
    recipe: dict[str, Any] | None = None
    command: str | None = None
    owner: str | None = None
    choices: dict[str, dict[str, Any]] = field(default_factory=dict)
    resized: dict[str, Any] | None = None
    compress: dict[str, Any] | None = None
    scratch: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        given = {"spent_s": self.spent_s, "race_s": self.race_s, "train_s": self.train_s}
        for name, value in (given | self.seconds | self.misses).items():
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} is {value}, not a time of 0 or more")
        for name, plan in self.finals.items():
            for what in ("hold", "total"):
                if (steps := plan.get(what)) is not None and steps != int(steps):
                    raise ConfigError(f"finals.{name}.{what} is {steps}, not a number of steps")


class State:
    """`fit.json` of a run folder: arguments, decisions, and the seconds of each phase.

    The time limit is one of work: what was spent before a stop counts, the pause does not.
    """

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path, self.values = path, values
        self._spent, self._began = float(values["spent_s"]), time.monotonic()

    @classmethod
    def new(cls, path: Path, **values: Any) -> State:
        """Return the state of a fit that begins, with what is known of it.

        What phases took already, in `seconds`, is spent unless `spent_s` says otherwise.
        """
        spent = sum(values.get("seconds", {}).values())
        state = cls(path, {"spent_s": spent, "seconds": {}, "finals": {}} | values)
        state.save()
        return state

    @classmethod
    def read(cls, path: Path) -> State:
        """Read the state that was saved, each decision of its type. Raises RunError."""
        if place.kind(path) is None:
            raise RunError(
                f"{path.parent} has no {path.name}, so nothing was begun there that could go on: "
                "remove the folder and start again, or name another with --out"
            )
        remedy = f"restore it, or start a new run instead of {path.parent}"
        values = read_json(path, dict, remedy=remedy)
        known = {one.name for one in fields(Saved)}
        try:
            saved = parse(Saved, {name: value for name, value in values.items() if name in known})
        except ConfigError as error:
            raise RunError(f"{path} is damaged ({error}): {remedy}") from error
        certain = {"spent_s", "seconds", "finals"} | (known & values.keys())
        return cls(path, values | {name: getattr(saved, name) for name in certain})

    def get(self, kind: type[T], name: str) -> T:
        """Return a decision as the dataclass that it was; "choices.flips" is one of a mapping.

        Raises RunError.
        """
        value: Any = self.values
        try:
            for part in name.split("."):
                if part not in value:
                    raise ConfigError(f"{name} is missing")
                value = value[part]
            return parse(kind, value, name)
        except ConfigError as error:
            raise RunError(
                f"{self.path} is damaged ({error}): restore it, or start a new run instead of "
                f"{self.path.parent}"
            ) from error

    def require_images(self, digest: str) -> None:
        """Raise RunError unless the images are those that the fit began with."""
        if self.values.get("images") != digest:
            raise RunError(
                f"the images are not those that {self.path.parent} began with (some were added, "
                "removed or changed): restore them, or start a new run"
            )

    @property
    def spent_s(self) -> float:
        """Return the seconds of work so far."""
        return self._spent + time.monotonic() - self._began

    def deadline(self, seconds: float) -> float:
        """Return the time.monotonic() at which `seconds` of work are over."""
        return time.monotonic() + seconds - self.spent_s

    @property
    def owner(self) -> str:
        """Return by what name this run is known to machines that share a study; it is its own."""
        if self.values.get("owner") is None:
            self.put(owner=uuid.uuid4().hex)
        return self.values["owner"]

    @property
    def finals(self) -> dict[str, Any]:
        """Return decided steps of full trainings, by candidate."""
        return self.values["finals"]

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase."""
        return self.values["seconds"]

    def decide(self, name: str, plan: Mapping[str, Any]) -> None:
        """Write down how far a candidate is trained, before it is."""
        self.finals[name] = dict(plan)
        self.save()

    def put(self, **values: Any) -> None:
        """Write down further decisions."""
        self.values.update(values)
        self.save()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside as that of a phase."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
            self.save()

    def save(self) -> None:
        """Save to disk, whole or not at all, synced. Raises RunError when it cannot be written."""
        self.values["spent_s"] = self.spent_s
        try:
            files.write(self.path, json.dumps(self.values, indent=1))
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written ({files.reason(error)}): free some space, then go "
                "on with --resume"
            ) from error


def resumed(
    out: str | os.PathLike | None,
    view: View,
    go_on: Callable[[RunFolder, State], Path],
    *,
    further: bool = False,
    check: Callable[[RunFolder, State], None] | None = None,
) -> Path:
    """Return what `go_on` makes of the run in `out`, or the run itself if it is finished already.

    With `further` a finished run is to go on as well. `check` raises where the run, finished or
    not, is not what was asked for. Raises RunError when `out` is not given or holds no run that can
    go on.
    """
    if out is None:
        raise RunError("--resume needs the run folder to go on with: add --out RUN")
    with RunFolder.create(out, resume=True) as run:
        state = State.read(run.path / NAME)
        if check is not None:
            check(run, state)
        if run.result.is_file() and not further:
            view.console.print(f"{run.path} is finished: see {run.report}", soft_wrap=True)
            return run.path
        return go_on(run, state)


def here(then: str, now: str | Path | None) -> str:
    """Return where data are: as they are given `now`, if they are no longer where they were `then`.

    Whether they are the same ones is seen when they are read (`State.require_images`).
    """
    gone = then not in BUILTIN and not Path(then).expanduser().exists()
    return str(now) if gone and now is not None else then


def require_same(run: RunFolder, given: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first field that is `given` and not as it was `kept`.

    None is not given; texts that are paths of the same place are the same. Of a run that is not
    finished data may have moved, see `here`.
    """
    for name, value in given.items():
        moved = name in ("data", "pictures") and kept[name] and not run.result.is_file()
        then = here(kept[name], value) if moved else kept[name]
        if value is not None and not _same(value, then):
            was = "none" if kept[name] in (None, ()) else _said(kept[name])
            raise ConfigError(
                f"{_word(name)} {_said(value)} is not what {run.path} was begun with ({was}): "
                "resume it as it was, or start another in a new folder"
            )


def _word(name: str) -> str:
    """Return how the command line calls a field."""
    if name in ("data", "run", "base", "pictures", "name"):
        return name
    return "--set" if name == "settings" else f"--{name.removesuffix('_s').replace('_', '-')}"


def _same(now: Any, then: Any) -> bool:
    if isinstance(now, str) and isinstance(then, str):
        return Path(now).expanduser().resolve() == Path(then).expanduser().resolve()
    return bool(now == then)


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return shortened(f"{value:g}" if isinstance(value, float) else str(value))
