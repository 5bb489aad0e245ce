"""Ctrl-C and SIGTERM during a fit: one sentence that says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vitrail.train.interrupt import Interrupted


@contextmanager
def interruptible(again: str) -> Iterator[None]:
    """Inside, a signal to stop becomes Interrupted, which names the command `again`.

    A training saves itself first; elsewhere everything that was decided is on disk already.
    """
    try:
        with _terminable():
            yield
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted(f"stopped, and nothing is lost: go on with `{again}`") from error


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM acts like Ctrl-C inside; outside the main thread Python has no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
