"""Renaming by tables. A name table is a list of rows `(pattern, target)` or `(pattern, target,
function)`, applied in order to every name of the file:

- a pattern matches at the start of a name, or anywhere if it begins with a dot; `{i}` stands
  for a number, which the target may use with an offset: `("layers.{i}.down.",
  "stages.{i+1}.down.")`;
- the target None drops the entry (a buffer that is recomputed);
- `function` maps the value of every entry that the row matches;
- a target may be a tuple of names, then `function` returns as many values;
- a final name that ends in `[k/n]` is part k of n, joined along axis 0; one that ends in
  `[+]` is a summand, in `[+n]` one of n.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import CheckpointError

State = dict[str, Tensor]
Row = tuple[Any, ...]
Origins = dict[str, list[str]]


def rename(state: Mapping[str, Tensor], rows: Sequence[Row]) -> State:
    """Return the state under our names; parts are joined and summands added.

    Raises CheckpointError when parts are missing, two entries take one name, or a tensor is not
    of a shape that its row can take.
    """
    return traced(state, rows)[0]


def traced(state: Mapping[str, Tensor], rows: Sequence[Row]) -> tuple[State, Origins]:
    """Do as `rename`, and tell of which names of the file each of ours is made."""
    compiled = [(_pattern(row[0]), *row[1:]) for row in rows]
    found: State = {}
    parts: dict[str, dict[int, Tensor]] = {}
    counts: dict[str, int] = {}
    sums: dict[str, list[Tensor]] = {}
    origins: Origins = {}
    for name, value in state.items():
        for target, result in _renamed(name, value, compiled):
            origins.setdefault(target.partition("[")[0], []).append(name)
            if match := re.fullmatch(r"(.+)\[(\d+)/(\d+)\]", target):
                whole, k, n = match[1], int(match[2]), int(match[3])
                parts.setdefault(whole, {})[k], counts[whole] = result, n
            elif match := re.fullmatch(r"(.+)\[\+(\d*)\]", target):
                sums.setdefault(match[1], []).append(result)
                if match[2]:
                    counts[match[1]] = int(match[2])
            elif target in found:
                raise CheckpointError(f"two entries of the checkpoint are both {target}")
            else:
                found[target] = result
    for whole, pieces in parts.items():
        if len(pieces) != counts[whole]:
            raise CheckpointError(
                f"the checkpoint has {len(pieces)} of the {counts[whole]} parts of {whole}: "
                "it is incomplete"
            )
        found[whole] = _taken(whole, torch.cat, [pieces[k] for k in sorted(pieces)])
    for whole, terms in sums.items():
        if len(terms) != counts.get(whole, len(terms)):
            raise CheckpointError(
                f"the checkpoint has {len(terms)} of the {counts[whole]} summands of {whole}: "
                "it is incomplete"
            )
        found[whole] = _taken(whole, _summed, terms)
    return found, origins


def aliases(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return our names of some of a file's, by a table alone."""
    bare = [
        (_pattern(row[0]), row[1], _copied(row[1])) if row[2:] else (_pattern(row[0]), row[1])
        for row in rows
    ]
    empty = torch.empty(0)
    found = (target for name in names for target, _ in _renamed(name, empty, bare))
    return [target.partition("[")[0] for target in found]


def _copied(target: Any) -> Callable[[Any], Any]:
    return lambda value: (value,) * len(target) if isinstance(target, tuple) else value


def _summed(terms: Sequence[Tensor]) -> Tensor:
    if terms[0].is_meta:  # a sum on the meta device makes PyTorch import its compiler: seconds
        return terms[0].new_empty(np.broadcast_shapes(*(tuple(term.shape) for term in terms)))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _taken(name: str, function: Callable[[Any], Any], value: Any) -> Any:
    """Return `function(value)`; raise CheckpointError where a tensor is
    not as the table expects it.
    """
    try:
        return function(value)
    except Exception as e:
        shapes = [tuple(v.shape) for v in (value if isinstance(value, list) else [value])]
        raise CheckpointError(
            f"{name} {', '.join(map(str, shapes))} is not of the shape that its table expects"
        ) from e


def _renamed(name: str, value: Tensor, rows: Sequence[Row]) -> list[tuple[str, Tensor]]:
    """Return what one entry becomes: nothing, one entry, or several where a target is a tuple."""
    for position, (pattern, target, *function) in enumerate(rows):
        match = pattern.search(name)
        if match is None:
            continue
        if target is None:
            return []
        result = _taken(name, function[0], value) if function else value
        targets, values = (target, result) if isinstance(target, tuple) else ((target,), (result,))
        return [
            entry
            for new, part in zip(targets, values, strict=True)
            for entry in _renamed(
                name[: match.start()] + _fill(new, match.groupdict()) + name[match.end() :],
                part,
                rows[position + 1 :],
            )
        ]
    return [(name, value)]


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern:
    body = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(text))
    return re.compile(body if text.startswith(".") else "^" + body)


def _fill(target: str, numbers: Mapping[str, str]) -> str:
    def number(match: re.Match) -> str:
        return str(int(numbers[match[1]]) + int(match[2] or 0))

    return re.sub(r"\{(\w+?)([+-]\d+)?\}", number, target)
