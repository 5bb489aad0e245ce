"""Classify image files with a finished run; nothing but the run folder is read.

The ONNX file answers where there is one, else the weights, with the same probabilities.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitrail.data.decode import BrokenImage, decode
from vitrail.data.parallel import bar
from vitrail.errors import DataError
from vitrail.run_folder import RunFolder

if TYPE_CHECKING:
    from rich.table import Table

BATCH = 32
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif",
     ".jp2", ".ico")
)  # fmt: skip; what a folder is searched for; a file that is named is tried whatever its suffix

Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """The classes of a file with their probabilities, most likely first; or why there are none."""

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    error: str | None = None


class Predictor:
    """A finished run that answers. Raises RunError when the folder is none."""

    def __init__(self, run: str | os.PathLike) -> None:
        folder = RunFolder.open(run)
        self.labels = folder.read_labels()
        self._answer = _onnx(folder) if folder.onnx.is_file() else _torch(folder)

    def predict(self, paths: Iterable[str | os.PathLike], top: int = 5) -> list[Prediction]:
        """A prediction for every path, in order, of the `top` classes.

        A file that is no readable image gets its reason and stops nothing.
        """
        paths = [os.fspath(p) for p in paths]
        found: list[Prediction] = []
        with bar("predicting", len(paths), shown=len(paths) > 4 * BATCH) as advance:
            for start in range(0, len(paths), BATCH):
                found += self._batch(paths[start : start + BATCH], top)
                advance(len(paths[start : start + BATCH]))
        return found

    def _batch(self, paths: Sequence[str], top: int) -> list[Prediction]:
        images: dict[str, np.ndarray] = {}
        errors: dict[str, str] = {}
        for path in paths:
            try:
                data = Path(path).read_bytes()
                images[path] = decode(data, self.labels.image, self.labels.channels)
            except BrokenImage as error:
                errors[path] = error.reason
            except OSError as error:
                errors[path] = f"cannot be read ({error.strerror})"
        shares: dict[str, np.ndarray] = {}
        if images:
            answers = self._answer(np.stack(list(images.values())))
            shares = dict(zip(images, answers, strict=True))
        return [
            Prediction(path, error=errors[path])
            if path in errors
            else Prediction(path, self._ranked(shares[path], top))
            for path in paths
        ]

    def _ranked(self, shares: np.ndarray, top: int) -> tuple[tuple[str, float], ...]:
        order = np.argsort(-shares, kind="stable")[: max(1, top)]
        return tuple((self.labels.classes[i], float(shares[i])) for i in order)


def _onnx(folder: RunFolder) -> Answer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder.onnx, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def _torch(folder: RunFolder) -> Answer:
    import torch

    from vitrail.layers.fold import deploy

    model, _, labels = folder.load_model()
    model = deploy(model)

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = model(labels.normalised(images))
            return (logits / labels.temperature).softmax(1).numpy()

    return answer


def collect(arguments: Iterable[str | os.PathLike]) -> list[str]:
    """The files named, and the image files of folders named, sorted. Raises DataError."""
    found: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(
                str(p) for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES
            )
            if not inside:
                raise DataError(f"folder {path} has no image files: name files, or another folder")
            found += inside
        elif path.exists():
            found.append(str(path))
        else:
            raise DataError(f"image {path} does not exist: give image files or folders of them")
    return found


def as_json(predictions: Sequence[Prediction]) -> str:
    """A JSON list, one object a file: path, and classes with probabilities or an error."""
    rows = [
        {"path": p.path, "error": p.error}
        if p.error
        else {"path": p.path, "classes": [{"class": c, "p": round(s, 6)} for c, s in p.ranked]}
        for p in predictions
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def as_csv(predictions: Sequence[Prediction]) -> str:
    """Comma-separated: path, error, then a class and its probability for each rank."""
    most = max((len(p.ranked) for p in predictions), default=0)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = [name for i in range(1, most + 1) for name in (f"class_{i}", f"p_{i}")]
    writer.writerow(["path", "error", *ranks])
    for p in predictions:
        cells = [cell for name, share in p.ranked for cell in (name, f"{share:.6f}")]
        writer.writerow([p.path, p.error or "", *cells])
    return text.getvalue()


def as_table(predictions: Sequence[Prediction]) -> Table:
    """A table to print: the likeliest class stands out, the others follow."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("class")
    table.add_column("sure", justify="right")
    table.add_column("then")
    for p in predictions:
        if p.error:
            table.add_row(Text(p.path), Text(p.error, style="red"), "", "")
            continue
        (first, share), *others = p.ranked
        rest = ", ".join(f"{name} {s:.1%}" for name, s in others)
        table.add_row(Text(p.path), Text(first), f"{share:.1%}", Text(rest, style="dim"))
    return table
