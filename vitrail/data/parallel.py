"""A threaded map that keeps the order, holds little and shows its progress.

Threads are enough: Pillow's decoders, torch and the hash functions release the lock of the
interpreter while they work.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from vitrail.measure.machine import cores

T = TypeVar("T")


def in_order(
    work: Callable[[range], T],
    n: int,
    *,
    size: int,
    workers: int | None,
    title: str,
    progress: bool,
) -> Iterator[T]:
    """Yield `work(range)` for 0..n in ranges of `size`, on `workers` threads (default: all cores).

    Yields in order; at most four ranges per worker are under way or waiting. The first
    exception of `work` is raised here and stops the rest.
    """
    workers = workers or cores()
    ranges = [range(start, min(start + size, n)) for start in range(0, n, size)]
    with bar(title, n, shown=progress) as advance:
        if workers == 1 or len(ranges) < 2:
            for part in ranges:
                yield work(part)
                advance(len(part))
            return
        pool = ThreadPoolExecutor(workers)
        try:
            yield from _windowed(pool, work, ranges, 4 * workers, advance)
        finally:
            pool.shutdown(cancel_futures=True)


def _windowed(pool, work, ranges: Sequence[range], window: int, advance) -> Iterator:
    waiting: deque = deque()
    for part in ranges:
        waiting.append((part, pool.submit(work, part)))
        if len(waiting) == window:
            done, future = waiting.popleft()
            yield future.result()
            advance(len(done))
    for done, future in waiting:
        yield future.result()
        advance(len(done))


class Room:
    """A number of bytes that the threads of a process share; who wants more than is left waits.

    Who wants more than there is gets it when nobody else has any.
    """

    def __init__(self, total: int) -> None:
        self.total = self._left = total
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, n: int) -> Iterator[None]:
        """Take so many bytes while the context lasts; a thread may not ask again inside."""
        n = min(n, self.total)
        with self._changed:
            self._changed.wait_for(lambda: n <= self._left)
            self._left -= n
        try:
            yield
        finally:
            with self._changed:
                self._left += n
                self._changed.notify_all()


@contextmanager
def bar(title: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on the error stream; yields the function that moves it on by n."""
    if not shown:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
    with Progress(*columns, console=console, transient=True) as shown_bar:
        task = shown_bar.add_task(title, total=total)
        yield lambda n: shown_bar.advance(task, n)
