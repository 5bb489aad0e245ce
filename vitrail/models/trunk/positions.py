"""Positions: which tensors of a network know places, on which grid, and how they move to another.

A family declares them in rows beside its names, for all its configs or as a function of one:

    POSITIONS = (Table("embed.position", patches, bicubic_grid),)

Two questions are answered by reading the rows: what the weights are for another size of image
(`resampled`), and for which image the shapes of a state were made (`fitting.fitted`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import CheckpointError
from vitrail.layers.position import linear_line

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """Tensors of one kind that have an entry for every place of a grid.

    `name` is a pattern as in name tables: `{i}` stands for a number, and a leading dot matches the
    end of a name. `grid(config, *numbers)` gives the places that a tensor has entries for, along
    the rows and columns of the image (after the frames, if there are three). `axes` are those of
    the tensor that hold them: one, in row-major order, or one each. `zoom` maps a table (1, n, C)
    from one grid to another, (1, m, C), and raises ValueError where it cannot. `prefix` entries
    of other tokens come before those of the grid, `between` entries lie between two neighbours:
    1 in a table of the differences of row-major indices, which has 2 n - 1.
    """

    name: str
    grid: Callable[..., Grid]
    zoom: Callable[[Tensor, Any, Any], Tensor]
    axes: tuple[int, ...] = (1,)
    prefix: int = 0
    between: int = 0

    def numbers(self, name: str) -> list[int] | None:
        """Return the numbers in a tensor's name, None if the pattern does not match it."""
        match = _pattern(self.name).search(name)
        return None if match is None else [int(n) for n in match.groups()]

    def holds(self, value: Tensor, grid: Grid) -> bool:
        """Return whether a tensor has an entry for every place of `grid`, and no others."""
        sides = tuple(value.shape[a] for a in self.axes)
        return sides == ((self.entries(math.prod(grid)),) if len(sides) == 1 else grid)

    def entries(self, places: int) -> int:
        """Return how long one axis is that holds a grid of so many places."""
        return self.prefix + places + self.between * (places - 1)

    def places(self, entries: int) -> int | None:
        """Return how many places an axis of so many entries holds, None if no number does."""
        places, rest = divmod(entries - self.prefix + self.between, 1 + self.between)
        return None if rest else places

    def moved(self, value: Tensor, old: Grid, new: Grid) -> Tensor:
        """Return a tensor made for the grid `old` as one for `new`."""
        if old == new:
            return value
        if value.ndim == 3 and self.axes == (1,):
            return self._zoomed(value, old, new)
        front = tuple(range(len(self.axes)))
        entries = value.movedim(self.axes, front)
        others = entries.shape[len(front) :]
        found = self._zoomed(entries.flatten(0, len(front) - 1).flatten(1)[None], old, new)
        sides = new if len(front) > 1 else (found.shape[1],)
        return found.reshape(*sides, *others).movedim(front, self.axes)

    def _zoomed(self, table: Tensor, old: Grid, new: Grid) -> Tensor:
        found = self.zoom(table[:, self.prefix :], old, new)
        return torch.cat([table[:, : self.prefix], found], 1) if self.prefix else found


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern:
    body = re.sub(r"\\\{\w+\\\}", r"(\\d+)", re.escape(text))
    return re.compile(body + "$" if text.startswith(".") else f"^{body}$")


def patches(config: Any) -> Grid:
    """Return how many whole patches fit down and across the config's image."""
    return config.image[0] // config.patch, config.image[1] // config.patch


def by_axis(
    name: str,
    entries: Callable[..., Grid],
    zoom: Callable[[Tensor, Any, Any], Tensor] = linear_line,
) -> tuple[Table, Table]:
    """Return the rows of two tables, `name`.rows and `name`.columns, whose first axes are as long
    as `entries(config, *numbers)` says of a map's rows and columns."""

    def of_rows(config: Any, *numbers: int) -> Grid:
        return entries(config, *numbers)[0], 1

    def of_columns(config: Any, *numbers: int) -> Grid:
        return 1, entries(config, *numbers)[1]

    return (
        Table(f"{name}.rows", of_rows, zoom, axes=(0,)),
        Table(f"{name}.columns", of_columns, zoom, axes=(0,)),
    )


def offsets(grid: Grid) -> Grid:
    """Return how many offsets there are between the places of a map, along each axis."""
    return tuple(2 * side - 1 for side in grid)


def rows(config: Any, module: Any) -> tuple[Table, ...]:
    """Return the declared rows of a config of the model file `module`."""
    declared: tuple[Table, ...] | Callable[[Any], tuple[Table, ...]]
    declared = getattr(module, "POSITIONS", ())
    return declared(config) if callable(declared) else declared


def borrowed(module: Any, own: Callable[[Any], Any]) -> tuple[Table, ...]:
    """Return the rows of the model file `module` for another family that builds on it; `own` maps
    a config of that family to one of the file's."""

    def of_host(table: Table) -> Table:
        return replace(table, grid=lambda config, *numbers: table.grid(own(config), *numbers))

    declared = getattr(module, "POSITIONS", ())
    return tuple(of_host(table) for table in declared)


def resampled(state: dict[str, Tensor], old: Any, new: Any, module: Any) -> dict[str, Tensor]:
    """Return `state` of the config `old` for `new`, its positions moved as the paper does.

    Raises CheckpointError where they cannot move.
    """
    own = getattr(module, "resample", None)
    if own is not None:
        return own(state, old, new)
    moved = dict(state)
    for table in rows(new, module):
        for name, value in state.items():
            if (numbers := table.numbers(name)) is None:
                continue
            try:
                grids = [table.grid(config, *numbers) for config in (old, new)]
                moved[name] = table.moved(value, *grids)
            except ValueError as e:
                (h, w), (h0, w0) = new.image, old.image
                raise CheckpointError(
                    f"image is {h}x{w}, the weights are for {h0}x{w0}: {e}; resize the images to "
                    f"{h0}x{w0}"
                ) from e
    return moved
