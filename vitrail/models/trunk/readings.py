"""The ways in which a state dict may be read: without what lies before its names, under each table
of a family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vitrail import checkpoint
from vitrail.errors import CheckpointError
from vitrail.models.trunk.catalog import module_of

DEEP = 4  # wrappers around a network
# Parts of a training that are not the network's.
_BESIDE = ("criterion.", "loss", "metric", "train_", "val_", "test_", "ema.", "augment")


class Reading(NamedTuple):
    """A state under our names by one table, of which `names` (without prefixes) of the file each
    is made, and the shapes of all but BatchNorms' counters."""

    state: Mapping[str, Tensor]
    table: str
    names: Mapping[str, str]
    origins: Mapping[str, list[str]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            n: tuple(v.shape)
            for n, v in self.state.items()
            if not n.endswith("num_batches_tracked")
        }


def unwrapped(names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the names of a file by what they may be without a wrapper's prefix: as they are first.

    A backbone's prefix goes; a head beside it is looked for with and without its own.
    """
    current = {name: name for name in names}
    yield current
    for _ in range(DEEP):
        firsts = Counter(name.split(".")[0] for name in current if "." in name)
        if not firsts:
            return
        prefix, count = firsts.most_common(1)[0]
        if count < 0.75 * len(current):
            return
        inner = {
            name.removeprefix(f"{prefix}."): raw
            for name, raw in current.items()
            if name.startswith(f"{prefix}.")
        }
        beside = {
            name: raw
            for name, raw in current.items()
            if not name.startswith((f"{prefix}.", *_BESIDE))
        }
        for shorter in _shortened(beside):
            if not shorter.keys() & inner.keys():
                yield {**inner, **shorter}
        current = {**inner, **beside}


# What a linear head is called in the names that tables know.
_HEADS = ("fc", "head", "classifier", "head.fc", "heads.head")


def _shortened(beside: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the names of a head as they are, without one or two of the modules around it, and,
    where it is one linear layer, by the names that heads have.
    """
    ways = [dict(beside)]
    for parts in (1, 2):
        cut = {".".join(name.split(".")[parts:]): raw for name, raw in beside.items()}
        if beside and len(cut) == len(beside) and all("." in name for name in cut):
            ways.append(cut)
    modules = {name.rpartition(".")[0] for name in beside}
    if len(modules) == 1 and {name.rpartition(".")[2] for name in beside} <= {"weight", "bias"}:
        ways += [
            {f"{head}.{name.rpartition('.')[2]}": raw for name, raw in beside.items()}
            for head in _HEADS
        ]
    return ways


def tables(config: Any, source: str | None = None) -> dict[str, Any]:
    """Return the rows of each table of names for a config; of one that `source` begins with.

    A table's function gives None where nobody publishes such a config under its names. Raises
    CheckpointError where there is none of this name.
    """
    known = {"vitrail": [], **module_of(config).NAMES}
    if source is not None:
        chosen = source if source in known else next(filter(source.startswith, known), None)
        if chosen is None:
            raise CheckpointError(f"no name table {source!r}: known are {', '.join(known)}")
        known = {chosen: known[chosen]}
    made = {k: rows(config) if callable(rows) else rows for k, rows in known.items()}
    if source is not None and None in made.values():
        raise CheckpointError(
            f"no {type(config).__module__.rpartition('.')[2]} of this config is published under "
            f"the names of {source}: choose a variant that is, or leave the source out"
        )
    return {k: rows for k, rows in made.items() if rows is not None}


def read(
    state: Mapping[str, Tensor], names: Mapping[str, str], table: str, rows: Sequence[Any]
) -> Reading:
    """Return the state, its `names` unwrapped, under a table. Raises CheckpointError where it does
    not take its tensors.
    """
    ours, origins = checkpoint.traced({new: state[raw] for new, raw in names.items()}, rows)
    files = {k: [names[n] for n in own] for k, own in origins.items()}
    return Reading(ours, table, names, files)


def light(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state's shapes and types as tensors without values."""
    return {n: torch.empty(v.shape, dtype=v.dtype, device="meta") for n, v in state.items()}
