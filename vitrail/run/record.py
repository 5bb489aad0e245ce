"""engine.json of a run: which file each engine had best answer with, and the figures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail import digests, files
from vitrail.config import parse, read_json
from vitrail.data.labels import Labels
from vitrail.engines import ENGINES, Answer, Engine, engine
from vitrail.errors import ConfigError, RunError
from vitrail.run.folder import RunFolder
from vitrail.units import shortened


@dataclass(frozen=True)
class Record:
    """What answering needs of an engine's record: `of` is the digest of the run's weights and
    labels, `use` the file to answer with, `files` the digests of that engine's files."""

    of: str
    use: str
    files: dict[str, str] = field(default_factory=dict)


def write(run: RunFolder, chosen: Engine, figures: Mapping[str, Any]) -> None:
    """Put the figures of an engine beside those of others, with the digests of its files.

    Raises RunError.
    """
    made = [
        part
        for name in (chosen.file, chosen.int8_file)
        for part in chosen.files(run.path / name)
        if part.is_file()
    ]
    told = {"of": digest(run), "files": {part.name: digest_of(part) for part in made}}
    run.write_json(run.engines, _read(run) | {chosen.name: told | dict(figures)})


def digest(run: RunFolder) -> str:
    """Return the digest by which weights and labels are known: files made
    of others are not theirs.
    """
    return hashlib.sha256((digest_of(run.weights) + digest_of(run.labels)).encode()).hexdigest()


def digest_of(file: Path) -> str:
    """Return the sha256 of a file of a run. Raises RunError."""
    try:
        return digests.of_file(file)
    except OSError as error:
        raise RunError(f"{file} cannot be read ({files.reason(error)}): restore it") from error


def _read(run: RunFolder) -> dict[str, Any]:
    if not run.engines.is_file():
        return {}
    remedy = "remove it and export the engines again"
    found = read_json(run.engines, dict, remedy=remedy)
    known = {name: found[name] for name in ENGINES if name in found}
    if not all(isinstance(said, dict) for said in known.values()):
        raise RunError(f"{run.engines} is damaged (an engine has no fields): {remedy}")
    return known


def open_run(run: RunFolder, labels: Labels, name: str) -> Answer:
    """Open the run in an engine, by the file that was fastest when it was exported.

    Raises RunError when it has none, or one of other weights, or one that was changed since.
    """
    chosen = engine(name)
    again = f"`vitrail export {run.path} --engine {name}`"
    said = _read(run).get(name)
    if said is None:
        raise RunError(f"run folder {run.path} has no file for {name}: make one by {again}")
    try:
        record = parse(Record, {k: said[k] for k in ("of", "use", "files") if k in said}, name)
    except ConfigError as error:
        raise RunError(
            f"{run.engines} is damaged ({shortened(str(error))}): write it again by {again}"
        ) from error
    if record.of != digest(run):
        raise RunError(
            f"the files for {name} in {run.path} are of other weights: make new ones by {again}"
        )
    use = record.use
    if use not in (chosen.file, chosen.int8_file) or not (run.path / use).is_file():
        raise RunError(f"{run.path} lacks the file for {name} ({use}): make it again by {again}")
    for part in chosen.files(run.path / use):
        if record.files.get(part.name) != digest_of(part):
            raise RunError(f"{part} is damaged or was changed: make it again by {again}")
    return chosen.open(run.path / use, labels)
