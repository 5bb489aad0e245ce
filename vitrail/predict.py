"""Classify image files with a finished run; nothing but the run folder is read.

The ONNX file answers where there is one, else the weights, with the same probabilities; or the
file of an engine, which `vitrail export` made.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.data.decode import BrokenImage, decode
from vitrail.data.labels import Labels
from vitrail.data.parallel import in_order
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.measure.session import session
from vitrail.run.folder import RunFolder

if TYPE_CHECKING:
    from rich.table import Table

BATCH = 32
# What a folder is searched for; a file that is named is tried whatever its suffix.
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif",
    ".jp2", ".ico",
)  # fmt: skip

Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """The classes of a file with their probabilities, most likely first; or why there are none."""

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    error: str | None = None


class Predictor:
    """A finished run that answers, in an `engine` that it was exported for where one is named.

    Raises RunError when the folder is none, or has no file for the engine.
    """

    def __init__(self, run: str | os.PathLike, *, engine: str | None = None) -> None:
        folder = RunFolder.open(run)
        self.labels = folder.read_labels()
        if engine is not None:
            self._answer = _deployed(folder, self.labels, engine)
        else:
            self._answer = _onnx(folder, self.labels) if folder.onnx.is_file() else _torch(folder)

    def predict(self, paths: Iterable[str | os.PathLike], top: int = 5) -> list[Prediction]:
        """A prediction for every path, in order, of the `top` classes.

        A file that is no readable image gets its reason and stops nothing. Raises ConfigError
        for `top` below 1.
        """
        if top < 1:
            raise ConfigError(f"top is {top}: ask for one class at least")
        paths = [os.fspath(p) for p in paths]
        batches = in_order(
            lambda rows: self._batch([paths[row] for row in rows], top),
            len(paths),
            size=BATCH,
            workers=None,
            title="predicting",
            progress=len(paths) > BATCH,
        )
        return [found for batch in batches for found in batch]

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
        order = np.argsort(-shares, kind="stable")[:top]
        return tuple((self.labels.classes[i], float(shares[i])) for i in order)


def predict(
    run: str | os.PathLike,
    images: Iterable[str | os.PathLike],
    *,
    top: int = 5,
    engine: str | None = None,
) -> list[Prediction]:
    """Classify image files, and those of folders, with a finished run.

    Returns a prediction for every file, in order, of the `top` classes; see `Predictor`, which
    keeps the run open for more. Raises RunError, DataError and ConfigError.

    Examples:
        >>> [found] = vitrail.predict("run", ["photos/cat/000.png"], top=2)
        >>> found.path, len(found.ranked)
        ('photos/cat/000.png', 2)
        >>> name, probability = found.ranked[0]
    """
    return Predictor(run, engine=engine).predict(collect(images), top=top)


def _onnx(folder: RunFolder, labels: Labels) -> Answer:
    running = session(folder.onnx)
    facts = running.get_modelmeta().custom_metadata_map
    theirs = [json.loads(facts.get(name, "null")) for name in ("classes", "image", "channels")]
    if theirs != [list(labels.classes), list(labels.image), labels.channels]:
        raise RunError(
            f"{folder.onnx} has other classes or images than {folder.labels}: write it again by "
            f"`vitrail export {folder.path} --onnx`"
        )
    return lambda images: running.run(["probabilities"], {"images": images})[0]  # pyright: ignore[reportReturnType]


def _deployed(folder: RunFolder, labels: Labels, engine: str) -> Answer:
    from vitrail.run.record import open_run

    answer = open_run(folder, labels, engine)
    return lambda images: answer(images)[0]


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
        try:
            found += _files(path)
        except OSError as error:
            raise DataError(
                f"image {path} cannot be read ({error.strerror}): give image files or folders of "
                "them"
            ) from error
    return found


def _files(path: Path) -> list[str]:
    if path.is_dir():
        inside = sorted(str(p) for p in path.rglob("*") if _is_image(p.relative_to(path), p))
        if not inside:
            raise DataError(f"folder {path} has no image files: name files, or another folder")
        return inside
    if not path.exists():
        raise DataError(f"image {path} does not exist: give image files or folders of them")
    return [str(path)]


def _is_image(name: Path, path: Path) -> bool:
    """By its name, unless that is hidden, as those of previews and caches are."""
    hidden = any(part.startswith(".") for part in name.parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _text(text: str) -> str:
    """Text that can be printed, with escapes, which JSON reads back, for a path's stray bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_json(predictions: Sequence[Prediction]) -> str:
    """A JSON list, one object a file: path, and classes with probabilities or an error."""
    rows = [{"path": p.path} | _answered(p) for p in predictions]
    return _text(json.dumps(rows, indent=1, ensure_ascii=False))


def _answered(prediction: Prediction) -> dict[str, Any]:
    if prediction.error:
        return {"error": prediction.error}
    return {"classes": [{"class": c, "p": round(p, 6)} for c, p in prediction.ranked]}


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
    return _text(text.getvalue())


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
            table.add_row(Text(_text(p.path)), Text(p.error, style="red"), "", "")
            continue
        (first, share), *others = p.ranked
        rest = ", ".join(f"{name} {s:.1%}" for name, s in others)
        table.add_row(Text(_text(p.path)), Text(first), f"{share:.1%}", Text(rest, style="dim"))
    return table
