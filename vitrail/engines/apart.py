"""Engines in a process of their own, beside one that trains.

A process in which OpenVINO has computed can die of a signal that Python handles, and a fit has to
survive Ctrl-C. The other process also measures in peace from what training left behind.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any, Self, cast

from vitrail import children
from vitrail.errors import RunError

# It must not hear Ctrl-C, which is for this process: there is a session of its own for that, and
# on Windows a group.
_ALONE: dict[str, Any] = {"start_new_session": True}
if os.name == "nt":
    _ALONE = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}


class Apart:
    """Calls functions in another process, which starts when it is first needed.

    As a context manager it ends that process. Functions must be importable by name, and what they
    take and give must be picklable.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> subprocess.Popen:
        """Start the process, which takes seconds, without waiting for it."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                **_ALONE,
            )
        return self._process

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function there; returns or raises what it does, RunError when the process dies."""
        process = self.start()
        try:
            _send(cast(IO[bytes], process.stdin), (function, arguments))
            right, found = pickle.load(cast(IO[bytes], process.stdout))
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            status = process.wait()
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
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for line in (process.stdin, process.stdout):
            try:
                if line is not None:
                    line.close()
            except OSError:  # a question that it no longer took
                continue


def serve(questions: IO[bytes], answers: IO[bytes]) -> None:
    """Answer calls until the other end is closed."""
    while True:
        try:
            function, arguments = pickle.load(questions)
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:
            answer = False, error
        _send(answers, answer)


def _send(line: IO[bytes], message: Any) -> None:
    line.write(pickle.dumps(message))
    line.flush()


def _own_line() -> IO[bytes]:
    """Keep the standard output for answers alone: what libraries print goes to standard error."""
    line = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return line


if __name__ == "__main__":
    children.tie_to(int(sys.argv[1]))
    serve(sys.stdin.buffer, _own_line())
