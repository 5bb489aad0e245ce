"""SIGTERM and Ctrl-C as a wish to stop: noticed at once, obeyed between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from vitrail.errors import VitrailError


class Interrupted(VitrailError):
    """A training that was asked to stop, and did so with everything saved."""


class Stopping:
    """Inside the `with`, the first signal only sets `wish` to its name; a second one acts as ever.

    Outside the main thread Python delivers no signals, and `wish` stays None.
    """

    def __init__(self) -> None:
        self.wish: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
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
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
