"""Ctrl-C, SIGTERM or a closed terminal: one sentence, and during a fit how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vitrail.training.interrupt import Interrupted, stopping_signals


@contextmanager
def interruptible(again: str) -> Iterator[None]:
    """Turn a signal to stop inside into Interrupted, which names the command `again`.

    A training saves itself first; elsewhere everything that was decided is on disk already.
    """
    try:
        with terminable():
            yield
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted(f"stopped, and nothing is lost: go on with `{again}`") from error


@contextmanager
def terminable() -> Iterator[None]:
    """Let what asks a process to stop act like Ctrl-C inside, so that everything is tidied up.

    Outside the main thread Python has no signals, and nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in stopping_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
