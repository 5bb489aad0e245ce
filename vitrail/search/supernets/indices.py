"""Which channels of a shared weight a narrower network takes: one engine for every search and cut.

A rule maps (have, want) to the places of `want` channels among `have`: a slice where they are a
range, so that what is taken is a view and autograd stays cheap, else a tensor of indices, which is
made once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

Places = slice | Tensor


class Rule(Protocol):
    """Chooses `want` of `have` channels. Raises ValueError where it cannot."""

    def places(self, have: int, want: int) -> Places: ...


@dataclass(frozen=True)
class Prefix:
    """The first channels: AutoFormer (arXiv 2107.00651), and the left side of ViTAS."""

    def places(self, have: int, want: int) -> Places:
        return slice(0, want)


@dataclass(frozen=True)
class Suffix:
    """The last channels: the right side of ViTAS (arXiv 2106.13700)."""

    def places(self, have: int, want: int) -> Places:
        return slice(have - want, have)


@dataclass(frozen=True)
class Circular:
    """A window that begins at `number` of `of` equal steps around the channels and may wrap.

    Over all numbers each channel is taken equally often, or once more or less, whatever the width:
    ViTAS's second version, whose exact offsets are not published.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(
                f"window {self.number} of {self.of}: expected a number below {self.of}"
            )

    def places(self, have: int, want: int) -> Places:
        begin = self.number * have // self.of
        if want == have:
            return slice(0, have)
        if begin + want <= have:
            return slice(begin, begin + want)
        return _around(begin, have, want)


@dataclass(frozen=True)
class Residues:
    """The first channels of each residue class modulo `classes`, one class after the other.

    The rows of AutoFormer's fused projection: row 3 i + t is row i of q, k or v.
    """

    classes: int

    def places(self, have: int, want: int) -> Places:
        if have % self.classes or want % self.classes:
            raise ValueError(
                f"{want} of {have} rows do not divide among {self.classes} residue classes: "
                "expected multiples"
            )
        return _residues(self.classes, want)


@dataclass(frozen=True)
class Chosen:
    """The first `want` of channels in a given order, such as that of their importance: once-for-all
    (arXiv 1908.09791), and sets that a compression chose."""

    order: tuple[int, ...]

    def places(self, have: int, want: int) -> Places:
        if len(self.order) < want or len({*self.order}) < len(self.order):
            raise ValueError(
                f"an order of {len(self.order)} channels cannot give {want}: expected as many "
                "different ones"
            )
        if self.order and not 0 <= min(self.order) <= max(self.order) < have:
            raise ValueError(f"the order names channels beyond the {have} that there are")
        return _listed(self.order[:want])


def taken(
    weight: Tensor, shape: Sequence[int], rule: Rule, rows: Mapping[int, Rule] | None = None
) -> Tensor:
    """Return the part of `weight` that has `shape`: along every axis the channels that `rule` says.

    `rows` are the rules of axes that have their own. Where all are ranges it is a view. Raises
    ValueError for a shape that is larger than the weight.
    """
    for axis, (have, want) in enumerate(zip(weight.shape, shape, strict=True)):
        own = (rows or {}).get(axis)
        if want > have:
            raise ValueError(
                f"a candidate needs {want} of {have} channels: it must be no wider than the "
                "shared network"
            )
        if want == have and own is None:
            continue
        places = (own or rule).places(have, want)
        if isinstance(places, slice):
            weight = weight.narrow(axis, places.start, places.stop - places.start)
        else:
            weight = weight.index_select(axis, places.to(weight.device))
    return weight


@lru_cache(maxsize=4096)
def _around(begin: int, have: int, want: int) -> Tensor:
    return (torch.arange(want) + begin) % have


@lru_cache(maxsize=1024)
def _residues(classes: int, want: int) -> Tensor:
    return torch.arange(want).reshape(-1, classes).T.flatten()


@lru_cache(maxsize=256)
def _listed(order: tuple[int, ...]) -> Tensor:
    return torch.tensor(order)
