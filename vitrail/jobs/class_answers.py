"""How a finished run answers with probabilities: by a file of an engine, or by its weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vitrail.data.labels import Labels
from vitrail.engines.sealed import open_sealed
from vitrail.measure.session import session
from vitrail.run import dial as dials
from vitrail.run.dial import Dial, Point
from vitrail.run.folder import RunFolder

# uint8 (N, H, W, C) at the size of the model to probabilities (N, classes).
Answer = Callable[[np.ndarray], np.ndarray]


def usual(folder: RunFolder, labels: Labels) -> Answer:
    """Return how a run answers by itself: by its ONNX file, else by its weights."""
    return _onnx(folder, labels) if folder.onnx.is_file() else _torch(folder)


def _onnx(folder: RunFolder, labels: Labels) -> Answer:
    again = f"vitrail export {folder.path} --onnx"
    running = open_sealed(folder.onnx, labels, folder.read_tie(), again)
    entry = running.get_inputs()[0].name
    return lambda images: running.run(["probabilities"], {entry: images})[0]  # pyright: ignore[reportReturnType]


def deployed(folder: RunFolder, labels: Labels, engine: str) -> Answer:
    """Return how the file answers that was exported for an engine. Raises RunError."""
    from vitrail.run.record import open_run

    answer = open_run(folder, labels, engine)
    return lambda images: answer(images)[0]


def turned(folder: RunFolder, dial: Dial, point: Point) -> Answer:
    """Open the run at a setting of its dial: by its file, else by the weights."""
    file = dials.file_of(folder, dial, point)
    if file is not None:
        running = session(file)
        return lambda images: running.run(["probabilities"], {"images": images})[0]  # pyright: ignore[reportReturnType]
    if point.name == dial.chosen and folder.onnx.is_file():
        return _onnx(folder, folder.read_labels())
    return _torch(folder, point)


def _torch(folder: RunFolder, point: Point | None = None) -> Answer:
    import torch

    from vitrail.layers.fold import deploy

    model, _, labels = folder.load_model()
    if point is not None:
        from vitrail.run import dialling

        model, labels = dialling.turned(model, point.setting), point.labels(labels)
    model = deploy(model)

    def answer(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return labels.probabilities(model(labels.normalised(images))).numpy()

    return answer
