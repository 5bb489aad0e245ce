"""The journal of a training: one JSON line per event, and no event twice."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitrail.errors import RunError
from vitrail.train.steps import Steps


class Journal:
    """Lines such as `{"step": 100, "epoch": 1.5, "loss": 0.4, "lr": 1e-3}` in a file.

    Lines are only appended, each in one write; `truncate` drops those of steps that will be
    done again. A line torn by a crash is dropped too.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def write(self, step: int, **values: Any) -> None:
        """Append a line. Raises RunError when it cannot be written."""
        line = json.dumps({"step": step, **values}) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def truncate(self, step: int) -> None:
        """Drop the lines of later steps than `step`, whole or not at all."""
        if not self.path.exists():
            return
        kept = "".join(json.dumps(line) + "\n" for line in self._lines() if line["step"] <= step)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with open(temporary, "w") as file:
                file.write(kept)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from error

    def read(self) -> list[dict[str, Any]]:
        """The lines in order of their steps, those of one step as one mapping."""
        merged: dict[int, dict[str, Any]] = {}
        for line in self._lines():
            merged.setdefault(line["step"], {}).update(line)
        return [merged[step] for step in sorted(merged)]

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for text in self.path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # torn by a crash: its step will be done again
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                yield line


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"the journal {path} cannot be written ({error.strerror}): free some space or choose "
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
