"""int8 within a budget of accuracy: everything first, then all but what breaks it.

Transformers often collapse in int8 because of a few layers with outliers. If all of int8 costs
too much, the graph is divided into groups, each of which is quantised alone; those that move the
logits most go back to float, as few of them as the budget needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.parallel import bar
from vitrail.engines.engine import Answer, Quantiser
from vitrail.errors import ExportError

BATCH = 32
# Groups of the scan, and the images that it looks at.
GROUPS = 24
SCANNED = 32


@dataclass(frozen=True, eq=False)
class Images:
    """uint8 (N, H, W, C): `calibration` of the training part, `held` of the validation part.

    `labels` int64 are the held images' classes in the order of the run.
    """

    calibration: np.ndarray
    held: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Int8:
    """An int8 file within its budget.

    Accuracies are shares of `n` held-back images, by which the nodes in float were chosen as well;
    `whole` is that of all nodes in int8. Of `nodes` with weights or products, `kept` are in float.
    """

    accuracy: float
    float_accuracy: float
    whole: float
    n: int
    calibrated_on: int
    max_drop: float
    nodes: int
    kept: tuple[str, ...]

    @property
    def drop(self) -> float:
        """Return the loss of accuracy in percentage points."""
        return 100 * (self.float_accuracy - self.accuracy)


def quantise(
    quantiser: Quantiser,
    floating: Answer,
    images: Images,
    path: Path,
    *,
    open_file: Callable[[Path], Answer],
    max_drop: float,
    progress: bool = False,
) -> Int8:
    """Write the int8 file at `path`, at most `max_drop` points worse than `floating`.

    Raises ExportError when only the model in float keeps that.
    """
    expected = accuracy(floating, images, "measuring in float", progress=progress)

    written: tuple[Sequence[int], float] = ((), 0.0)

    def attempt(keep: Sequence[int], title: str) -> float:
        nonlocal written
        names = [name for unit in keep for name in quantiser.units[unit]]
        with bar(title, 1, shown=progress) as advance:
            quantiser.write(path, names)
            advance(1)
        found = accuracy(open_file(path), images, "measuring in int8", progress=progress)
        written = keep, found
        return found

    def kept_well(found: float) -> bool:
        # A hair of rounding is no loss.
        return 100 * (expected - found) <= max_drop + 1e-9

    whole = found = attempt((), "quantising")
    keep: list[int] = []
    if not kept_well(whole):
        ranked = _ranked(quantiser, floating, images, path, open_file, progress=progress)

        def first(groups: int) -> list[int]:
            return sorted(unit for group in ranked[:groups] for unit in group)

        enough = _fewest(
            lambda n: kept_well(attempt(first(n), f"{n} of {len(ranked)} groups in float")),
            len(ranked),
        )
        if enough == len(ranked):
            raise ExportError(
                f"no file in int8 is within {max_drop:g} points of {expected:.1%} (with all nodes "
                f"in int8 it is {whole:.1%}): allow more by --max-drop, or use the file in float"
            )
        keep = first(enough)
        # The file of the last attempt may be the one.
        found = written[1] if written[0] == keep else attempt(keep, "writing")
    names = tuple(quantiser.units[unit][0] for unit in keep)
    return Int8(
        found, expected, whole, len(images.labels), len(images.calibration), max_drop,
        len(quantiser.units), names,
    )  # fmt: skip


def _fewest(passes: Callable[[int], bool], most: int) -> int:
    """Return the least n of 1 to `most` that passes, trying few first; `most` passes untried."""
    below, enough = 0, 1
    while enough < most and not passes(enough):
        below, enough = enough, min(2 * enough, most)
    while enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if passes(middle) else (middle, enough)
    return enough


def _ranked(
    quantiser: Quantiser,
    floating: Answer,
    images: Images,
    path: Path,
    open_file: Callable[[Path], Answer],
    *,
    progress: bool,
) -> list[list[int]]:
    """Return groups of neighbouring units, the one whose int8 moves the logits most first."""
    every = range(len(quantiser.units))
    groups = [part.tolist() for part in np.array_split(every, min(GROUPS, len(every)))]
    sample = images.calibration[:SCANNED]
    expected = floating(sample)[1]
    errors = []
    with bar("looking for what int8 breaks", len(groups), shown=progress) as advance:
        for group in groups:
            others = set(every) - set(group)
            quantiser.write(path, [name for unit in others for name in quantiser.units[unit]])
            errors.append(float(np.square(open_file(path)(sample)[1] - expected).mean()))
            advance(1)
    # A logit that is no number is the worst error.
    order = np.argsort(np.nan_to_num(errors, nan=np.inf), kind="stable")[::-1]
    return [groups[at] for at in order]


def accuracy(answer: Answer, images: Images, title: str, *, progress: bool = False) -> float:
    """Return the share of held-back images whose class the answer gets right."""
    right = 0
    with bar(title, len(images.held), shown=progress) as advance:
        for start in range(0, len(images.held), BATCH):
            batch = images.held[start : start + BATCH]
            guesses = answer(batch)[1].argmax(1)
            right += int((guesses == images.labels[start : start + BATCH]).sum())
            advance(len(batch))
    return right / len(images.held)
