"""Processes that end with the one that started them, however that one ends.

A process that is killed by force cannot end its children. On Linux the kernel does; elsewhere, and
besides, a thread of the child waits for the parent's end.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait

_PR_SET_PDEATHSIG = 1
_KILL = 9
_LOOK_S = 0.5


def tie() -> None:
    """End this process as soon as the one that started it through `multiprocessing` is gone.

    Does nothing in a process that was not started so. Where the parent is gone already, this one
    ends here.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        _watch(parent.pid, lambda: wait([parent.sentinel]))


def tie_to(pid: int) -> None:
    """End this process as soon as its parent, which is the process `pid`, is gone.

    For a parent that started it as a command. On Windows nothing says so: the child has to notice
    that its line to the parent is closed.
    """
    if os.name != "nt":
        _watch(pid, lambda: _outlast(pid))


def _watch(pid: int, until_gone: Callable[[], object]) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _KILL)
    # The parent may have ended before anything watched.
    if os.name != "nt" and os.getppid() != pid:
        os._exit(1)

    def end() -> None:
        until_gone()
        os._exit(1)

    threading.Thread(target=end, name="parent", daemon=True).start()


def _outlast(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(_LOOK_S)
