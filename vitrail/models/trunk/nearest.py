"""The nearest model to a state that none fits, and what differs, in the file's own names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from vitrail import checkpoint
from vitrail.checkpoint import Mismatch
from vitrail.errors import CheckpointError
from vitrail.models.trunk.backbone import Variant
from vitrail.models.trunk.catalog import catalog, families, shapes, skeleton
from vitrail.models.trunk.figures import counted, fingerprint, unnumbered, vocabulary
from vitrail.models.trunk.readings import Reading, light, read, tables, unwrapped
from vitrail.models.trunk.told import headed

KNOWN = 0.5  # part of the names that a family must know under a table
TRIES = 4  # models that are built to be compared


def likely(names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield families, and the tables under which they know most kinds of the names."""
    few = list({unnumbered(name): name for name in reversed(list(names))}.values())
    for family, module in families().items():
        for table in ("vitrail", *module.NAMES):
            if _share(few, family, table) >= KNOWN:
                yield family, table


def _share(few: list[str], family: str, table: str) -> float:
    """Return the part of some names that a family knows under a table, at any of its configs."""
    # A guest is called as its host is: one config of each will do.
    known: dict[type, Any] = {}
    for variant in reversed(families()[family].VARIANTS.values()):
        kind = type(getattr(variant.config, "host", None))
        if kind in known:
            continue
        try:
            known[kind] = variant.config, tables(variant.config, table)[table]
        except CheckpointError:
            continue  # nobody publishes this variant under the table's names
    return max((_known(few, family, *one) for one in known.values()), default=0.0)


def _known(few: list[str], family: str, config: Any, rows: Any) -> float:
    ours = checkpoint.aliases(few, rows)
    known = vocabulary().get(family)
    if known is None:  # a new family, which is not counted yet
        known = {unnumbered(name) for name in shapes(config)}
    return sum(unnumbered(name) in known for name in ours) / max(1, len(ours))


def body(variant: Variant) -> tuple[int, str]:
    """Return how many values a variant has outside of its head, and the
    fingerprint of their names.
    """
    figures = counted().get(variant.name)
    if figures is not None:
        return figures.body, figures.names
    found = {n: s for n, s in shapes(variant.config).items() if not n.startswith("head.")}
    return sum(map(math.prod, found.values())), fingerprint(found)


def nearest(state: Mapping[str, Tensor]) -> str:
    """Return the variant with the fewest differences and what they are;
    empty where none is near.
    """
    known, best = light(state), None
    total = sum(v.numel() for v in state.values())
    for names in unwrapped(list(state)):
        pairs = [
            (abs(body(v)[0] - total), v, table)
            for family, table in likely(names)
            for v in catalog().values()
            if v.family == family
        ]
        for _, variant, table in sorted(pairs, key=lambda pair: pair[0])[:TRIES]:
            try:
                rows = tables(variant.config, table)[table]
                reading = read(known, names, table, rows)
            except CheckpointError:  # tensors or a config that are not published under its names
                continue
            config = headed(variant.config, reading.shapes) or variant.config
            mismatch = checkpoint.compare(reading.state, skeleton(config))
            if best is None or mismatch.size < best[0]:
                best = mismatch.size, variant.name, reading, mismatch
    if best is None:
        return ""
    _, name, reading, mismatch = best
    return f"{name} in {reading.table} names: {in_file_names(mismatch, reading).describe()}"


def in_file_names(mismatch: Mismatch, reading: Reading) -> Mismatch:
    """Return what differs, by the names that the file has or, where it lacks one, would have."""

    def said(ours: str) -> str:
        return reading.origins.get(ours, [ours])[0]

    missing = [_as_written(name, reading) for name in mismatch.missing]
    misshaped = []
    for text in mismatch.misshaped:
        name, space, rest = text.partition(" ")
        misshaped.append(f"{said(name)}{space}{rest}")
    return Mismatch(missing, [said(name) for name in mismatch.unexpected], misshaped)


def _as_written(ours: str, reading: Reading) -> str:
    """Return a missing name as the file would write it, after those
    that differ in numbers alone.
    """
    like = {n: raws[0] for n, raws in reading.origins.items() if unnumbered(n) == unnumbered(ours)}
    for name, raw in like.items():
        if all(_moved(raw, name, other) == known for other, known in like.items()):
            return _moved(raw, name, ours)
    return ours


def _moved(raw: str, name: str, other: str) -> str:
    """Return the file's name `raw` for our `name`, its first numbers
    changed as ours are in `other`.
    """
    steps = [b - a for a, b in zip(_numbers(name), _numbers(other), strict=True)]
    numbers = _numbers(raw)
    steps += [0] * (len(numbers) - len(steps))
    return _renumbered(raw, [n + step for n, step in zip(numbers, steps, strict=False)])


def _renumbered(name: str, numbers: list[int]) -> str:
    pieces = iter(numbers)
    return re.sub(r"\d+", lambda _: str(next(pieces)), name)


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
