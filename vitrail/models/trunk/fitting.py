"""What a state was made for: image, classes and channels, told by the shapes of its tensors."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vitrail.models.trunk.backbone import input_kind, input_shape
from vitrail.models.trunk.positions import Grid, Table, rows

Sizes = tuple[int, ...]
WIDEST = 4.0  # how many times as long a guessed image may be, measured by its config's own
LONGEST = 1 << 15  # no side of an image is longer


def fitted(config: Any, state: Mapping[str, Tensor], module: Any) -> Any:
    """Return `config` with the classes, channels and image that the shapes of `state` tell.

    A size stays where it explains what is found. Tensors that the config's model has not, or has
    with another number of axes, tell nothing. Shapes that two images explain, as a table of 8 x 18
    places may be one of 12 x 12, are taken for the image closest in shape to the config's own. None
    if no image explains them.
    """
    own = getattr(module, "fitted", None)
    if own is not None:
        return own(config, state)
    told = replace(config, **_counts(config, state, module))
    ours = _shapes(module, config)
    known = {n: v for n, v in state.items() if n in ours and v.ndim == len(ours[n])}
    for found in _likely(told, known, rows(config, module)):
        try:
            expected = _shapes(module, found)
        except ValueError:  # too small for such a network
            continue
        if all(shape == state[name].shape for name, shape in expected.items() if name in state):
            return found
    return None


@lru_cache(maxsize=64)
def _shapes(module: Any, config: Any) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        return {name: value.shape for name, value in module.MODEL(config).state_dict().items()}


def _counts(config: Any, state: Mapping[str, Tensor], module: Any) -> dict[str, int]:
    """Return the classes and channels of a state: how many rows its head has, and how many times
    the inputs of the config's own model a kernel or a projection has that is otherwise the same.
    """
    tables, found = rows(config, module), {}
    for name, shape in _shapes(module, config).items():
        have = state[name].shape if name in state else shape
        if (
            have == shape
            or len(have) != len(shape)
            or any(t.numbers(name) is not None for t in tables)
        ):
            continue
        if name.startswith("head.") and shape[0] == config.classes and have[1:] == shape[1:]:
            found["classes"] = have[0]
        elif len(shape) > 1 and have[0] == shape[0] and have[2:] == shape[2:]:
            channels, rest = divmod(have[1] * config.channels, shape[1])
            if channels and not rest:
                found.setdefault("channels", channels)
    return found


@dataclass(frozen=True)
class _Found:
    """A tensor of a state that a row matches, and the grid that sizes of input give it."""

    table: Table
    numbers: list[int]
    value: Tensor

    def grid(self, config: Any, sizes: Sizes) -> Grid:
        return self.table.grid(_sized(config, sizes), *self.numbers)

    def fits(self, config: Any, sizes: Sizes) -> bool:
        try:
            return self.table.holds(self.value, self.grid(config, sizes))
        except ValueError:  # too small
            return False

    def sizes(self, config: Any, own: Sizes) -> set[tuple[int | None, ...]]:
        """Return what the tensor may be for, each side by itself; None
        where it does not tell a side.
        """
        have = [self.value.shape[a] for a in self.table.axes]
        grids = [tuple(have)] if len(have) > 1 else _factors(self.table.places(have[0]), len(own))
        found = set()
        for grid in grids:
            sides = [self._side(config, own, k, places) for k, places in enumerate(grid)]
            if 0 not in sides:
                found.add(tuple(sides))
        return found

    def _side(self, config: Any, own: Sizes, k: int, places: int) -> int | None:
        """Return the k-th side of an input that has so many places along it: its own if that will
        do, else the one that the stride divides. None if all large sides do, 0 if none does.
        """

        def along(side: int) -> int:
            try:
                return self.grid(config, (*own[:k], side, *own[k + 1 :]))[k]
            except ValueError:  # too small
                return 0

        sides = range(1, LONGEST)
        first = bisect_left(sides, places, key=along)
        last = bisect_right(sides, places, key=along) - 1
        if first > last:
            return 0
        if last == len(sides) - 1:
            return None
        low, high = sides[first], sides[last]
        return own[k] if low <= own[k] <= high else high - high % (high - low + 1)


def _factors(number: int | None, count: int) -> Iterator[Grid]:
    """Yield all ways to write a number as a product of so many, none for no number."""
    if number is None:
        return
    if count == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for others in _factors(number // first, count - 1):
                yield (first, *others)


def _sized(config: Any, sizes: Sizes) -> Any:
    """Return the config for images of (H, W), or for clips of (T, H, W)."""
    frames = {"frames": sizes[0]} if input_kind(config) == "clips" else {}
    return replace(config, image=sizes[-2:], **frames)


def _likely(config: Any, state: Mapping[str, Tensor], tables: Sequence[Table]) -> Iterator[Any]:
    """Yield the config for all inputs that the tables of a state may be
    for, the likeliest first.
    """
    own = input_shape(config)[1:]
    different: dict[tuple, _Found] = {}  # blocks of one stage tell the same
    for name, value in state.items():
        for table in tables:
            if (numbers := table.numbers(name)) is not None:
                one = _Found(table, numbers, value)
                key = (table, *numbers[:1], one.grid(config, own), value.shape)
                different.setdefault(key, one)
    found = different.values()
    if all(one.fits(config, own) for one in found):
        yield config
        return
    told: set[tuple[int | None, ...]] = {(None,) * len(own)}
    for one in found:
        if any(None in sizes for sizes in told):
            new = one.sizes(config, own)
            told = {both for a in told for b in new if (both := _agreed(a, b))}
    whole = {tuple(a or b for a, b in zip(sizes, own, strict=True)) for sizes in told}

    def stretch(sizes: Sizes) -> float:
        return abs(math.log(sizes[-2] * own[-1] / (sizes[-1] * own[-2])))

    for sizes in sorted(whole, key=lambda s: (stretch(s), s)):
        if stretch(sizes) <= math.log(WIDEST) and all(one.fits(config, sizes) for one in found):
            yield _sized(config, sizes)


def _agreed(a: Sequence[int | None], b: Sequence[int | None]) -> tuple[int | None, ...] | None:
    """Return what both tell of the sides, None where they differ."""
    if any(x and y and x != y for x, y in zip(a, b, strict=True)):
        return None
    return tuple(x or y for x, y in zip(a, b, strict=True))
