"""Signals as Python hears them, for tests that share a process with others."""

from __future__ import annotations

import signal


def deliver(number: int) -> None:
    """Have the handler of a signal run, as if the signal had come.

    A process in which OpenVINO has computed can die of a real one, and a test does not know what
    those before it have computed.
    """
    handler = signal.getsignal(number)
    assert callable(handler), f"nothing in Python hears {signal.Signals(number).name}"
    handler(number, None)
