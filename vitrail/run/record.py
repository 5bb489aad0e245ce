"""engine.json of a run: which file each engine had best answer with, and the figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vitrail.data.labels import Labels
from vitrail.engines import ENGINES, Answer, engine
from vitrail.errors import RunError
from vitrail.run.folder import RunFolder


def write(run: RunFolder, name: str, figures: Mapping[str, Any]) -> None:
    """Put the figures of an engine beside those of others. Raises RunError."""
    run.write_json(run.engines, _read(run) | {name: {"of": digest(run), **figures}})


def digest(run: RunFolder) -> str:
    """By which weights and labels are known: files made of others are not theirs."""
    state = hashlib.sha256()
    for file in (run.weights, run.labels):
        try:
            state.update(file.read_bytes())
        except OSError as error:
            raise RunError(f"{file} cannot be read ({error.strerror}): restore it") from error
    return state.hexdigest()


def _read(run: RunFolder) -> dict[str, Any]:
    if not run.engines.is_file():
        return {}
    try:
        found = json.loads(run.engines.read_text("utf-8"))
        return {name: dict(found[name]) for name in ENGINES if name in found}
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{run.engines} is damaged ({error}): remove it and export the engines again"
        ) from error


def open_run(run: RunFolder, labels: Labels, name: str) -> Answer:
    """The run in an engine, by the file that was fastest when it was exported.

    Raises RunError when it has none, or one of other weights.
    """
    chosen = engine(name)
    record = _read(run).get(name)
    again = f"`vitrail export {run.path} --engine {name}`"
    if record is None:
        raise RunError(f"run folder {run.path} has no file for {name}: make one by {again}")
    if record.get("of") != digest(run):
        raise RunError(
            f"the files for {name} in {run.path} are of other weights: make new ones by {again}"
        )
    use = record.get("use")
    if use not in (chosen.file, chosen.int8_file) or not (run.path / use).is_file():
        raise RunError(f"{run.path} lacks the file for {name} ({use}): make it again by {again}")
    return chosen.open(run.path / use, labels)
