"""Ctrl-C, SIGTERM and a closed terminal as a wish to stop: noticed at once, obeyed after a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from vitrail.errors import VitrailError


def stopping_signals() -> tuple[int, ...]:
    """Return the signals that ask a process to stop, but for Ctrl-C, and that this one may hear.

    One that is ignored stays so: `nohup` has a run outlast its terminal.
    """
    known = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP", "SIGBREAK"))
    return tuple(n for n in known if n is not None and signal.getsignal(n) != signal.SIG_IGN)


class Interrupted(VitrailError):
    """A training that was asked to stop, and did so with everything saved."""


class Stopping:
    """Inside the `with`, the first signal only sets `wish` to its name; a second one acts as ever.

    Outside the main thread Python delivers no signals, and `wish` stays None.
    """

    def __init__(self) -> None:
        self.wish: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *stopping_signals()):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.wish = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
