"""The exported files of a dial: one for each setting, which share their weights.

They lie in the run's folder `dial`; `dial.json` has their digests. Each is compared with the
weights at its setting, as any exported file is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import files
from vitrail.data.labels import Labels
from vitrail.data.parallel import bar
from vitrail.engines import engine
from vitrail.engines.onnx import Exported, compare, export_onnx, synthetic
from vitrail.engines.shared import share
from vitrail.errors import RunError
from vitrail.models import config_json
from vitrail.run import dial as dials
from vitrail.run import record
from vitrail.run.dial import FOLDER, Dial, Point
from vitrail.run.dialling import turned
from vitrail.run.folder import RunFolder
from vitrail.run.turn import Turn
from vitrail.units import counted, size

DESCRIBED = "synthetic images"


@dataclass(frozen=True)
class DialFiles:
    """The files of a dial in `folder`: their sizes in bytes by name, the shared weights last.

    `alone_bytes` is what they would take with weights of their own, `largest` the largest
    difference of a logit from the model, by setting, on `n` images.
    """

    folder: Path
    sizes: Mapping[str, int]
    alone_bytes: int
    largest: Mapping[str, float]
    n: int

    def said(self) -> str:
        """Say what was written, in a few lines."""
        together = sum(self.sizes.values())
        lines = [f"{self.folder / name}: {size(n)}" for name, n in self.sizes.items()]
        lines.append(
            f"{counted(len(self.largest), 'setting')} in {size(together)}, with weights of their "
            f"own {size(self.alone_bytes)}; the same answer on all {self.n} {DESCRIBED}, logits "
            f"differ by at most {max(self.largest.values()):.1e}"
        )
        return "\n".join(lines)


def export_dial(path: str | os.PathLike, *, progress: bool = False) -> DialFiles:
    """Write a file for each setting on the front of a run's dial; they share their weights.

    What was exported of the dial before is replaced. Raises RunError and ExportError.
    """
    dials.read(RunFolder.open(path))
    with RunFolder.create(path, resume=True) as run:
        dial = dials.read(run)
        model, _, labels = run.load_model()
        images = synthetic(labels)
        with run.scratch() as scratch:
            alone, folder = scratch / "alone", scratch / "shared"
            alone.mkdir()
            folder.mkdir()
            single = [
                _exported(model, labels, point, alone, images, progress).path
                for point in dial.front
            ]
            try:
                *made, weights = share(single, folder)
            except OSError as error:
                raise _unwritable(folder, error) from error
            largest = {
                point.name: _compared(turned(model, point.setting), labels, file, images, progress)
                for point, file in zip(dial.front, made, strict=True)
            }
            sizes = {part.name: part.stat().st_size for part in (*made, weights)}
            before = sum(file.stat().st_size for file in single)
            _settle(run, replace(dial, files={}), [weights, *made])
        return DialFiles(run.path / FOLDER, sizes, before, largest, len(images))


def export_setting(path: str | os.PathLike, turn: Turn, *, progress: bool = False) -> Exported:
    """Write a file of its own for the setting that a wish picks. Raises VitrailError."""
    turn.picked(dials.read(RunFolder.open(path)))
    with RunFolder.create(path, resume=True) as run:
        dial = dials.read(run)
        point = turn.picked(dial)
        model, _, labels = run.load_model()
        with run.scratch() as scratch:
            made = _exported(model, labels, point, scratch, synthetic(labels), progress)
            _settle(run, dial, [made.path])
        return replace(made, path=run.path / FOLDER / made.path.name)


def _exported(
    model: Any, labels: Labels, point: Point, folder: Path, images: np.ndarray, progress: bool
) -> Exported:
    return export_onnx(
        turned(model, point.setting), point.labels(labels), folder / f"{point.name}.onnx",
        images=images, config=config_json(model.config), described=DESCRIBED, progress=progress,
    )  # fmt: skip


def _compared(model: Any, labels: Labels, file: Path, images: np.ndarray, progress: bool) -> float:
    """Compare a file that refers to shared weights with the model. Raises ExportError."""
    answer = engine("onnxruntime").open(file, labels)
    with bar(f"comparing {file.stem}", len(images), shown=progress) as advance:
        return compare(model, labels, lambda batch: answer(batch)[1], images, advance)


def _settle(run: RunFolder, dial: Dial, made: Sequence[Path]) -> None:
    """Move accepted files into the run, and note their digests; others of no note are removed."""
    folder = run.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        for part in made:
            files.move(part, folder / part.name)
        noted = {**dial.files, **{part.name: record.digest_of(folder / part.name) for part in made}}
        dials.write(run, replace(dial, files=noted))
        for left in folder.iterdir():
            if left.name not in noted:
                left.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path} cannot be written ({files.reason(error)}): free some space, then do it again"
    )
