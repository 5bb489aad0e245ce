"""int8 within a budget of a score: everything first, then all but what breaks it.

Transformers often collapse in int8 because of a few layers with outliers. If all of int8 costs
too much, the graph is divided into groups, each of which is quantised alone; those that move the
logits most go back to float, as few of them as the budget needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.parallel import bar
from vitrail.engines.engine import Answer, Quantiser
from vitrail.errors import ExportError

# How good logits (N, K) are, from 0 to 1, for held-back images in their order.
Score = Callable[[np.ndarray], float]

BATCH = 32
# Groups of the scan, and the images that it looks at.
GROUPS = 24
SCANNED = 32


@dataclass(frozen=True, eq=False)
class Images:
    """uint8 (N, H, W, C): `calibration` of the training part, `held` of the validation part.

    `score` says how good logits (N, K) of the held images are, in [0, 1], and `name` what it is.
    """

    calibration: np.ndarray
    held: np.ndarray
    score: Score
    name: str = "accuracy"


@dataclass(frozen=True)
class Int8:
    """An int8 file within its budget.

    Scores are those of `n` held-back images, by which the nodes in float were chosen as well, and
    `name` says which; `whole` is that of all nodes in int8. Of `nodes` with weights or products,
    `kept` are in float.
    """

    score: float
    float_score: float
    whole: float
    n: int
    calibrated_on: int
    max_drop: float
    nodes: int
    kept: tuple[str, ...]
    name: str = "accuracy"

    @property
    def drop(self) -> float:
        """Return the loss of the score in percentage points."""
        return 100 * (self.float_score - self.score)


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
    expected = scored(floating, images, "measuring in float", progress=progress)
    bench = _Bench(quantiser, images, path, open_file, progress)

    def kept_well(found: float) -> bool:
        # A hair of rounding is not a loss.
        return 100 * (expected - found) <= max_drop + 1e-9

    whole = found = bench.measured((), "quantising")
    keep: list[int] = []
    if not kept_well(whole):
        ranked = bench.ranked(floating)

        def first(groups: int) -> list[int]:
            return sorted(unit for group in ranked[:groups] for unit in group)

        def tried(groups: int) -> bool:
            title = f"{groups} of {len(ranked)} groups in float"
            return kept_well(bench.measured(first(groups), title))

        enough = _fewest(tried, len(ranked))
        if enough == len(ranked):
            what = "" if images.name == "accuracy" else f"{images.name} of "
            raise ExportError(
                f"no file in int8 is within {max_drop:g} points of {what}{expected:.1%} (with all "
                f"nodes in int8 it is {whole:.1%}): allow more by --max-drop, or use the file in "
                "float"
            )
        keep = first(enough)
        found = bench.measured(keep, "writing")
    names = tuple(quantiser.units[unit][0] for unit in keep)
    return Int8(
        found, expected, whole, len(images.held), len(images.calibration), max_drop,
        len(quantiser.units), names, images.name,
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


class _Bench:
    """Files in int8 that are written at one path, one after the other, and measured."""

    def __init__(
        self,
        quantiser: Quantiser,
        images: Images,
        path: Path,
        open_file: Callable[[Path], Answer],
        progress: bool,
    ) -> None:
        self.quantiser, self.images, self.progress = quantiser, images, progress
        self.path, self.open_file = path, open_file
        self._last: tuple[Sequence[int], float] | None = None

    def measured(self, keep: Sequence[int], title: str) -> float:
        """Return the score with the units `keep` in float, whose file lies at the path then."""
        if self._last is not None and self._last[0] == keep:
            return self._last[1]
        with bar(title, 1, shown=self.progress) as advance:
            self._write(keep)
            advance(1)
        answer = self.open_file(self.path)
        found = scored(answer, self.images, "measuring in int8", progress=self.progress)
        self._last = keep, found
        return found

    def ranked(self, floating: Answer) -> list[list[int]]:
        """Return groups of neighbouring units, the one whose int8 moves the logits most first."""
        every = range(len(self.quantiser.units))
        groups = [part.tolist() for part in np.array_split(every, min(GROUPS, len(every)))]
        sample = self.images.calibration[:SCANNED]
        expected = floating(sample)[1]
        errors = []
        self._last = None
        with bar("looking for what int8 breaks", len(groups), shown=self.progress) as advance:
            for group in groups:
                self._write(set(every) - set(group))
                moved = self.open_file(self.path)(sample)[1] - expected
                errors.append(float(np.square(moved).mean()))
                advance(1)
        # A logit that is not a number is the worst error.
        order = np.argsort(np.nan_to_num(errors, nan=np.inf), kind="stable")[::-1]
        return [groups[at] for at in order]

    def _write(self, keep: Collection[int]) -> None:
        names = [name for unit in keep for name in self.quantiser.units[unit]]
        self.quantiser.write(self.path, names)


def scored(answer: Answer, images: Images, title: str, *, progress: bool = False) -> float:
    """Return the score of what is answered for the held-back images."""
    logits = []
    with bar(title, len(images.held), shown=progress) as advance:
        for start in range(0, len(images.held), BATCH):
            batch = images.held[start : start + BATCH]
            logits.append(answer(batch)[1])
            advance(len(batch))
    return images.score(np.concatenate(logits))
