"""Engines in a process of their own, beside one that trains.

A process in which OpenVINO has computed can die of a signal that Python handles, and a fit has to
survive Ctrl-C. The other process also measures in peace from what training left behind.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

from vitrail.errors import RunError


class Apart:
    """Calls functions in another process, which starts when it is first needed.

    As a context manager it ends that process. Functions must be importable by name, and what they
    take and give must be picklable.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._line: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Connection:
        """Start the process, which takes seconds, without waiting for it."""
        if self._line is None:
            mine, theirs = Pipe()
            # In a session of its own it hears no Ctrl-C; it ends when this end of the pipe closes.
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            theirs.close()
            self._line = mine
        return self._line

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function there; returns or raises what it does, RunError when the process dies."""
        line = self.start()
        try:
            line.send((function, arguments))
            right, found = line.recv()
        except (EOFError, OSError) as error:
            status = self._process.wait() if self._process else None
            self.close()
            raise RunError(
                f"the engine's process ended with status {status}: use another --engine"
            ) from error
        except BaseException:
            # Its answer would be taken for that to the next question.
            self.close()
            raise
        if not right:
            raise found
        return found

    def close(self) -> None:
        """End the process, whatever it is doing; a later call starts another."""
        if self._line is not None and self._process is not None:
            self._line.close()
            self._process.kill()
            self._process.wait()
        self._line = self._process = None


def serve(line: Connection) -> None:
    """Answer calls until the other end is closed."""
    while True:
        try:
            function, arguments = line.recv()
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:
            answer = False, error
        line.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
