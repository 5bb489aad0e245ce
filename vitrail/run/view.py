"""What a fit shows while it runs: phase, candidates, accuracy, latency, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vitrail.units import count, seconds

EVERY_S = 5.0


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
    """A live table on a terminal; elsewhere a plain line every few seconds."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._rows: dict[str, Row] = {}
        self._phase = "starting"
        self._deadline: float | None = None
        self._said = 0.0
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The live table, while inside."""
        if not self.console.is_terminal:
            yield
            return
        with Live(
            get_renderable=self._table, console=self.console, refresh_per_second=4, transient=True
        ) as self._live:
            yield
        self._live = None

    def until(self, deadline: float) -> None:
        """The fit is to be done at this time.monotonic()."""
        self._deadline = deadline

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def phase(self, text: str) -> None:
        """What is being done now."""
        self._phase = text
        self._line(text, force=True)

    def enter(self, candidates: Sequence[Entrant]) -> None:
        """These race."""
        self._rows = {c.name: Row(c, latency_s=c.latency_s) for c in candidates}

    def update(self, name: str, **changes: Any) -> None:
        """A candidate has another status, accuracy, latency_s or number of steps."""
        row = replace(self._rows[name], **changes) if name in self._rows else None
        if row is None:
            return
        if row.accuracy is not None and "accuracy" in changes:
            self._line(
                f"{name}: {row.accuracy:.1%} after {row.steps} steps, {row.status}", force=True
            )
        self._rows[name] = row

    def step(self, name: str, step: int, until: int) -> None:
        """A candidate has made a step."""
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
        if force or time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            left = self._left()
            self.console.print(
                f"[{left}] {text}" if left else text, markup=False, highlight=False, soft_wrap=True
            )

    def _table(self) -> Group:
        head = Text.assemble((self._phase, "bold"), ("  " + self._left(), "dim"))
        if not self._rows:
            return Group(head)
        table = Table(box=None, pad_edge=False)
        for title in ("candidate", "MACs", "latency", "steps", "score", ""):
            table.add_column(title, justify="left" if title in ("candidate", "") else "right")
        order = {"won": 0, "training": 0, "racing": 1, "finalist": 1, "waiting": 2, "stopped": 3}
        rows = sorted(
            self._rows.values(), key=lambda r: (order.get(r.status, 4), -(r.accuracy or 0.0))
        )
        for row in rows:
            table.add_row(
                row.candidate.name,
                count(row.candidate.macs),
                "" if row.latency_s is None else seconds(row.latency_s),
                f"{row.steps}/{row.until}" if row.until > row.steps else str(row.steps or ""),
                "" if row.accuracy is None else f"{row.accuracy:.1%}",
                row.status,
                style="dim" if row.status in ("stopped", "waiting") else None,
            )
        return Group(head, table)
