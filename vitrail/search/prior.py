"""Which families to try first: how each did on some data sets, in equal time.

`prior.json` is evidence, not opinion: `python bench/prior.py` trains a small model of every
family for the same seconds on a data set and writes down its validation accuracy. A short race has
no time for all families, and it begins with those that learned most, in the mean over the data
sets. `passes` were measured apart, as `passes_by` says.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("prior.json")


@lru_cache(maxsize=1)
def _measured() -> dict[str, Any]:
    return json.loads(MEASURED.read_text())


def prior(family: str) -> float:
    """Return the validation accuracy of a small model of the family, in the mean over data sets;
    the median of those on which it was not measured."""
    sets = [found["accuracy"] for found in _measured()["sets"].values()]
    return statistics.fmean(known.get(family, statistics.median(known.values())) for known in sets)


def haste(family: str) -> float:
    """Return how many passes over the images a family learns best in, beside the usual number."""
    return _measured().get("passes", {}).get(family, 1.0)


def by_prior(families: Iterable[str]) -> list[str]:
    """Return the families by falling prior."""
    return sorted(families, key=lambda name: (-prior(name), name))
