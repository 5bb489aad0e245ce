"""Speed, side by side: variants against every peer that has the same model.

bench(names, settings)     measure, and keep the figures in a folder
read(folder)               read the figures of an earlier comparison
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vitrail.bench import record
from vitrail.bench.contests import Settings, contest
from vitrail.bench.peers import LIBRARIES, smallest
from vitrail.config import parse
from vitrail.errors import BenchError
from vitrail.measure.machine import cores, machine
from vitrail.report.speed import Row, SpeedFacts, render_speed
from vitrail.run.place import check_writable

__all__ = ["Settings", "bench", "chosen", "read"]

FILE = "bench.json"


def chosen(names: Sequence[str]) -> list[str]:
    """Resolve names to variants: a family means its smallest one, no name that of every family."""
    each = smallest()
    return list(dict.fromkeys(each.get(name, name) for name in names or each))


def bench(
    names: Sequence[str],
    settings: Settings,
    *,
    out: Path | None = None,
    resume: bool = False,
    on_row: Callable[[Row], None] = lambda row: None,
) -> SpeedFacts:
    """Compare each variant with its peers, one after the other, and call `on_row` with each row.

    With `out` the figures and a page are written there after every variant; with `resume`
    variants that are there are not measured again. Raises BenchError and ConfigError.
    """
    if out is not None:
        check_writable(out, "folder")
    facts = SpeedFacts(said(settings), described(), [])
    if out is not None and resume and (out / FILE).is_file():
        before = read(out)
        if before.settings != facts.settings:
            raise BenchError(f"{out} holds a comparison with other settings: choose another --out")
        facts = replace(facts, rows=before.rows)
    elif out is not None and (out / FILE).exists():
        raise BenchError(
            f"{out} holds a comparison: continue it with --resume, or choose another --out"
        )
    done = {row.variant for row in facts.rows}
    for name in chosen(names):
        if name in done:
            continue
        rows = contest(name, settings)
        facts = replace(facts, rows=[*facts.rows, *rows])
        if out is not None:
            keep(facts, out)
        for row in rows:
            on_row(row)
    return facts


def said(settings: Settings) -> dict[str, Any]:
    """Return the settings as a table shows them."""
    return {
        "mode": settings.mode,
        "device": settings.device,
        "dtype": settings.dtype,
        "threads": settings.threads or cores(),
        "compiled": settings.compiled,
        "against": ", ".join(settings.against),
        "batches": ", ".join(map(str, settings.batches)),
        "image": "x".join(map(str, settings.image)) if settings.image else "as published",
    }


def described() -> dict[str, Any]:
    """Describe the machine, with the versions of the peers."""
    found = machine()
    versions = dict(found["versions"])
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "not installed"
    return found | {"versions": versions}


def keep(facts: SpeedFacts, out: Path) -> None:
    """Write the figures and their page. Raises BenchError."""
    record.write(out, {FILE: dumped(facts), "bench.html": render_speed(facts)})


def dumped(facts: SpeedFacts) -> str:
    """Return the facts as JSON."""
    return json.dumps(asdict(facts), indent=1) + "\n"


def read(out: Path) -> SpeedFacts:
    """Read the figures that a comparison left in its folder. Raises BenchError."""

    def made(told: Any) -> SpeedFacts:
        rows = [parse(Row, row) for row in told["rows"]]
        return SpeedFacts(told["settings"], told["machine"], rows)

    return record.read(out / FILE, made)
