"""What a fit shows while it runs: phase, candidates, accuracy, latency, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any, Protocol, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vitrail.run import notebook
from vitrail.units import count, seconds

# Between two plain lines, and between two pictures of a notebook.
EVERY_S, NOTEBOOK_S = 5.0, 0.5
TITLES = ("candidate", "MACs", "latency", "steps", "score", "")


class Entrant(Protocol):
    """What is shown of a candidate."""

    @property
    def name(self) -> str: ...
    @property
    def macs(self) -> int: ...
    @property
    def latency_s(self) -> float | None: ...


@dataclass(frozen=True)
class Row:
    """A candidate as it is shown."""

    candidate: Entrant
    status: str = "waiting"
    accuracy: float | None = None
    steps: int = 0
    until: int = 0
    latency_s: float | None = None


class View:
    """A live table on a terminal or in a notebook; elsewhere a plain line every few seconds.

    Without a `console` it writes to the error stream, in a notebook into one output of the cell.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._output = notebook.output() if console is None else None
        self._lines: list[str] = []
        if self._output is not None:
            lines = cast(IO[str], notebook.Lines(self._told))
            console = Console(file=lines, force_jupyter=False, width=120)
        self.console = console or Console(stderr=True)
        self._rows: dict[str, Row] = {}
        self._phase = "starting"
        self._deadline: float | None = None
        self._said = 0.0
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the live table, while inside."""
        if not self.console.is_terminal:
            yield
            return
        with Live(
            get_renderable=self._table, console=self.console, refresh_per_second=4, transient=True
        ) as self._live:
            yield
        self._live = None

    def until(self, deadline: float) -> None:
        """Say when the fit is to be done, as time.monotonic()."""
        self._deadline = deadline

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def phase(self, text: str) -> None:
        """Show what is being done now."""
        self._phase = text
        self._line(text, force=True)

    def enter(self, candidates: Sequence[Entrant]) -> None:
        """Show the candidates that race."""
        self._rows = {c.name: Row(c, latency_s=c.latency_s) for c in candidates}
        self._draw(force=True)

    def add(self, candidate: Entrant) -> None:
        """Show one candidate more."""
        self._rows[candidate.name] = Row(candidate)
        self._draw(force=True)

    def update(self, name: str, **changes: Any) -> None:
        """Show another status, accuracy, latency_s or number of steps of a candidate."""
        row = replace(self._rows[name], **changes) if name in self._rows else None
        if row is None:
            return
        if row.accuracy is not None and "accuracy" in changes:
            self._line(
                f"{name}: {row.accuracy:.1%} after {row.steps} steps, {row.status}", force=True
            )
        self._rows[name] = row
        self._draw()

    def step(self, name: str, step: int, until: int) -> None:
        """Show that a candidate has made a step."""
        if name in self._rows:
            self._rows[name] = replace(self._rows[name], steps=step, until=until)
        self._line(f"{name}: step {step} of {until}")

    def _left(self) -> str:
        if self._deadline is None:
            return ""
        return f"{seconds(max(0.0, self._deadline - time.monotonic()))} left"

    def _line(self, text: str, force: bool = False) -> None:
        if self._live is not None or self.console.is_terminal:
            return
        if self._output is not None:
            self._draw(force=force)
        elif force or time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            left = self._left()
            self.console.print(
                f"[{left}] {text}" if left else text, markup=False, highlight=False, soft_wrap=True
            )

    def _told(self, line: str) -> None:
        """Add a line that was printed, in a notebook."""
        self._lines.append(line)
        self._draw(force=True)

    def _draw(self, *, force: bool = False) -> None:
        """Show it all in a notebook's output, unless that was done a moment ago."""
        if self._output is None or not (force or time.monotonic() - self._said >= NOTEBOOK_S):
            return
        self._said = time.monotonic()
        rows = [cells for cells, _ in self._cells()]
        self._output.show(notebook.progress(self._phase, self._left(), TITLES, rows, self._lines))

    def _table(self) -> Group:
        head = Text.assemble((self._phase, "bold"), ("  " + self._left(), "dim"))
        if not self._rows:
            return Group(head)
        table = Table(box=None, pad_edge=False)
        for title in TITLES:
            table.add_column(title, justify="left" if title in ("candidate", "") else "right")
        for cells, status in self._cells():
            table.add_row(*cells, style="dim" if status in ("stopped", "waiting") else None)
        return Group(head, table)

    def _cells(self) -> list[tuple[list[str], str]]:
        """Return each candidate's cells, in the order of `TITLES`, and
        its status; the best first.
        """
        order = {"won": 0, "training": 0, "racing": 1, "finalist": 1, "waiting": 2, "stopped": 3}
        rows = sorted(
            self._rows.values(), key=lambda r: (order.get(r.status, 4), -(r.accuracy or 0.0))
        )
        return [
            (
                [
                    row.candidate.name,
                    count(row.candidate.macs),
                    "" if row.latency_s is None else seconds(row.latency_s),
                    f"{row.steps}/{row.until}" if row.until > row.steps else str(row.steps or ""),
                    "" if row.accuracy is None else f"{row.accuracy:.1%}",
                    row.status,
                ],
                row.status,
            )
            for row in rows
        ]
