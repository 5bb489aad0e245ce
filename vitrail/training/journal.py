"""The journal of a training: one JSON line per event, and no event twice."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitrail import files
from vitrail.config import loads
from vitrail.errors import RunError
from vitrail.training.steps import Steps


class Journal:
    """Lines such as `{"step": 100, "epoch": 1.5, "loss": 0.4, "lr": 1e-3}` in a file.

    Lines are only appended, and a line of a step and of certain figures once; `truncate` drops
    those of steps that will be done again. A line torn by a crash is dropped too, and so is one
    whose figures are not numbers.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def write(self, step: int, **values: Any) -> None:
        """Append a line, unless one with the same step and the same figures is there.

        A figure that is not finite is left out: JSON has no word for it. Raises RunError when it
        cannot be written.
        """
        values = {name: value for name, value in values.items() if _writable(value)}
        if any(line["step"] == step and line.keys() - {"step"} == values.keys() for line in self):
            return
        line = (json.dumps({"step": step, **values}) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = files.opened(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                _append(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def truncate(self, step: int) -> None:
        """Drop the lines of later steps than `step`, whole or not at all."""
        if not self.path.exists():
            return
        kept = "".join(json.dumps(line) + "\n" for line in self if line["step"] <= step)
        try:
            files.write(self.path, kept)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def read(self) -> list[dict[str, Any]]:
        """Return the lines in order of their steps, those of one step as one
        mapping. Raises RunError.
        """
        merged: dict[int, dict[str, Any]] = {}
        for line in self:
            merged.setdefault(line["step"], {}).update(line)
        return [merged[step] for step in sorted(merged)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            text = files.read(self.path).decode("utf-8", "replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(
                f"the journal {self.path} cannot be read ({files.reason(error)}): remove it, and "
                "the curves begin anew"
            ) from error
        for one in text.split("\n"):
            try:
                line = loads(one)
            except ValueError:  # torn by a crash: its step will be done again
                continue
            if isinstance(line, dict) and _sound(line):
                yield line


def _sound(line: dict[str, Any]) -> bool:
    """Return whether a line has a step, and figures that can be drawn."""
    figures = {name: value for name, value in line.items() if name not in ("fault", "samples")}
    step = line.get("step")
    return (
        isinstance(step, int)
        and step >= 0
        and all(type(value) in (int, float) for value in figures.values())
    )


def _writable(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _append(handle: int, line: bytes) -> None:
    """Append the whole line, or nothing of it: on a full disk the system may take a part."""
    before = os.fstat(handle).st_size
    try:
        left = memoryview(line)
        while left:
            left = left[os.write(handle, left) :]
    except OSError:
        os.ftruncate(handle, before)
        raise


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"the journal {path} cannot be written ({files.reason(error)}): free some space or choose "
        "another folder, then go on with --resume"
    )


class Recorder:
    """Tells the journal and `on_step` of the steps; some 200 lines for a whole training.

    A line's loss and terms are means since the line before it.
    """

    def __init__(
        self,
        journal: Journal | None,
        on_step: Callable[[int, float, float, float], None] | None,
        steps: Steps,
    ) -> None:
        self.samples_per_s = 0.0
        self._journal, self._on_step, self._batch = journal, on_step, steps.batch
        self._every = max(1, steps.total // 200)
        self._total = steps.total
        self._losses: list[float] = []
        self._terms: dict[str, list[float]] = {}
        self._first: tuple[int, float] | None = None

    def rewind(self, done: int, **values: Any) -> None:
        """Begin, or begin again, after `done` steps; `values` say why."""
        self._losses, self._terms, self._first = [], {}, None
        if self._journal:
            self._journal.truncate(done)
            if values:
                self._journal.write(done, **values)

    def step(
        self, number: int, loss: float, lr: float, epochs: float, terms: Mapping[str, float]
    ) -> None:
        """Note that step `number` (from 1) is done; each is `epochs` of an epoch.

        `terms` are what the objective says beside its loss.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (number, now)
        elif now > self._first[1]:
            self.samples_per_s = (number - self._first[0]) * self._batch / (now - self._first[1])
        self._losses.append(loss)
        for name, value in terms.items():
            self._terms.setdefault(name, []).append(value)
        if self._journal and (number % self._every == 0 or number == self._total):
            mean = sum(self._losses) / len(self._losses)
            self._journal.write(
                number,
                epoch=round(number * epochs, 4),
                loss=mean,
                lr=lr,
                samples_per_s=round(self.samples_per_s, 1),
                **{name: sum(seen) / len(seen) for name, seen in self._terms.items()},
            )
            self._losses, self._terms = [], {}
        if self._on_step:
            self._on_step(number, loss, lr, self.samples_per_s)
