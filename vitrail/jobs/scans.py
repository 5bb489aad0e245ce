"""Points of lidar scans, told by a finished run: its ONNX file, and NumPy around it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import files
from vitrail.config import parse
from vitrail.data import drawn
from vitrail.data.labels import Labels
from vitrail.data.lidar.projection import ByScan, Spherical
from vitrail.data.lidar.reader import Network, Reader
from vitrail.data.lidar.reading import ENDINGS, BrokenScan, Scan, read_scan
from vitrail.data.masks import IGNORE
from vitrail.data.parallel import in_order
from vitrail.data.tree import walked
from vitrail.engines.kpconv import in_numpy
from vitrail.engines.sealed import open_sealed
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.jobs.masks import Written, check_out, names
from vitrail.jobs.prediction import Prediction
from vitrail.report.lidar import from_above
from vitrail.run.folder import RunFolder

FEW = 3  # scans from which on progress is shown
_PROJECTION: Any = Spherical | ByScan


class ScanPredictor:
    """A finished run of scans that answers; nothing but its folder is read. Raises RunError."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.labels = run, run.read_labels(scans=True)
        task = run.read_recipe().get("task", {})
        self.reader = _reader(task, self.labels, run)
        neighbours = int(task.get("neighbours", 0))
        self.network = _onnx(run, self.labels, neighbours) if run.onnx.is_file() else _torch(
            run, neighbours
        )  # fmt: skip

    def collect(self, arguments: Sequence[str]) -> list[str]:
        """List the files named, and the scans in folders named at any depth. Raises DataError."""
        found: list[str] = []
        for argument in arguments:
            path = Path(argument)
            if not path.exists():
                raise DataError(f"scan {path} does not exist: give scans or folders of them")
            below = sorted(
                str(here / name)
                for here, names, _ in walked(path)
                for name in names
                if name.lower().endswith(ENDINGS) and (here / name).is_file()
            )
            if path.is_dir() and not below:
                raise DataError(f"folder {path} has no scans, as {', '.join(ENDINGS)} files")
            found += below if path.is_dir() else [str(path)]
        return found

    def free_folder(self) -> Path:
        """Return a folder in the working directory for labels, which is not there yet."""
        number, name = 1, f"labels-of-{self.run.path.resolve().name}"
        while (path := Path(name + (f"-{number}" if number > 1 else ""))).exists():
            number += 1
        return path

    def said(self, found: Sequence[Prediction]) -> str:
        """Say nothing: there is one way to answer."""
        return ""

    def predict(
        self, scans: Any, top: int = 5, *, out: str | os.PathLike | None = None
    ) -> list[Prediction]:
        """Return the class of every point of scans, given as paths, in `Prediction.points`.

        What cannot be read gets its reason and stops nothing. With `out`, an empty folder or one
        that is not there, each scan gets NAME.label, a number of four bytes for each point of the
        file as SemanticKITTI has them: classes are counted as in classes.txt beside it, 255 is a
        point that is not finite. Raises ConfigError and RunError.
        """
        if top < 1:
            raise ConfigError(f"top is {top}: ask for one class at least")
        paths = [scans] if isinstance(scans, str | os.PathLike) else list(scans)
        if not all(isinstance(path, str | os.PathLike) for path in paths):
            raise ConfigError("a run of scans is asked about files: give their paths")
        named = [os.fspath(path) for path in paths]
        target = None if out is None else Path(out)
        if target is not None:
            check_out(target)
            _write(target, "classes.txt", ("\n".join(self.labels.classes) + "\n").encode())
        stems = names(named)

        def work(rows: range) -> list[Prediction]:
            return [self._one(named[row], top, target, stems[row]) for row in rows]

        parts = in_order(
            work, len(named), size=1, workers=None, title="reading scans",
            progress=len(named) > FEW,
        )  # fmt: skip
        return [one for part in parts for one in part]

    def _one(self, path: str, top: int, out: Path | None, name: str) -> Prediction:
        try:
            scan = read_scan(Path(path))
        except BrokenScan as error:
            return Prediction(path, error=str(error))
        except OSError as error:
            return Prediction(path, error=f"cannot be read ({files.reason(error)})")
        said = self.reader.answer(scan.xyz, scan.intensity, self.network).labels
        shares = np.bincount(said, minlength=len(self.labels.classes)) / len(said)
        order = np.argsort(-shares, kind="stable")[:top]
        ranked = tuple((self.labels.classes[i], float(shares[i])) for i in order if shares[i])
        written = None if out is None else self._written(out, name, scan, said)
        return Prediction(path, ranked, points=_of_file(scan, said), written=written)

    def _written(self, out: Path, name: str, scan: Scan, said: np.ndarray) -> Written:
        labels = _of_file(scan, said).astype("<u4").tobytes()
        above = from_above(scan.xyz, said, self.labels.classes)
        return Written(
            _write(out, f"{name}.label", labels), _write(out, f"{name}-above.png", above)
        )


def _of_file(scan: Scan, said: np.ndarray) -> np.ndarray:
    """Return the class of each point of the file, uint8, also of those that were left out."""
    if scan.rows is None:
        return said
    whole = np.full(scan.points, IGNORE, np.uint8)
    whole[scan.rows] = said
    return whole


def _write(out: Path, name: str, data: bytes) -> str:
    try:
        drawn.make(out)
        files.write(out / name, data)
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({files.reason(error)}): name another folder by --out"
        ) from error
    return str(out / name)


def _reader(task: Any, labels: Labels, run: RunFolder) -> Reader:
    """Return the reader of whole scans, as the run's recipe describes it. Raises RunError."""
    try:
        projection = parse(_PROJECTION, task["projection"], "task.projection")
        width = labels.image[1]
        stride = min(width, int(task["stride"]) or max(1, 2 * width // 3))
        return Reader(
            projection, width, stride, labels.mean, labels.std, int(task["voters"]),
            int(task["window"]),
        )  # fmt: skip
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run.recipe} is damaged ({error}): restore the folder") from error


def _onnx(run: RunFolder, labels: Labels, neighbours: int) -> Network:
    from safetensors.numpy import load_file

    again = f"vitrail train --resume --out {run.path}"
    running = open_sealed(run.onnx, labels, run.read_tie(), again)
    try:
        files.check(run.weights)
        state = load_file(run.weights)
    except Exception as error:  # whatever a damaged header makes the library say
        raise RunError(f"{run.weights} cannot be read ({error}): restore the folder") from error
    return in_numpy(running, state, neighbours)


def _torch(run: RunFolder, neighbours: int) -> Network:
    import torch

    from vitrail.tasks.scan_answers import in_torch

    model, _, _ = run.load_model(scans=True)
    return in_torch(model, torch.device("cpu"), neighbours)
