"""Calls timed in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence


def measured(calls: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, Sequence[float]]:
    """Return the seconds of each round of each call, in turns, behind one round of warm-up."""
    spent: dict[str, list[float]] = {who: [] for who in calls}
    for _ in range(rounds + 1):
        for who, call in calls.items():
            start = time.perf_counter()
            call()
            spent[who].append(time.perf_counter() - start)
    return {who: times[1:] for who, times in spent.items()}
