"""The wrong answers that a model was surest of, with what it was shown, for the page to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitrail.data.cache import Pixels
from vitrail.tasks.task import Outputs

# So many are drawn.
MOST = 16


@dataclass(frozen=True, eq=False)
class Wrong:
    """A wrong answer: the item's key, what the model was shown, the true class and the answered
    one, by their places, and how sure the answer was."""

    key: str
    shown: np.ndarray
    truth: int
    guess: int
    share: float


@dataclass(frozen=True, eq=False)
class Judged(Outputs):
    """What a model says of a test part, and its worst mistakes."""

    worst: Sequence[Wrong] = ()


def judged(told: Outputs, items: Pixels) -> Judged:
    """Return the outputs with the worst mistakes among `items`, the surest first."""
    sure, guesses = told.values.softmax(1).max(1)
    wrong = (guesses != told.targets).nonzero().flatten()
    rows = wrong[sure[wrong].argsort(descending=True)][:MOST].tolist()
    found = [
        Wrong(
            items.keys[row], items.take([row])[0], int(told.targets[row]), int(guesses[row]),
            float(sure[row]),
        )
        for row in rows
    ]  # fmt: skip
    return Judged(told.values, told.targets, found)


def worst_of(outputs: Outputs) -> Sequence[Wrong]:
    """Return the worst mistakes that outputs tell, which are none of other outputs."""
    return outputs.worst if isinstance(outputs, Judged) else ()
