"""Classify images with a finished run; nothing but the run folder is read.

The ONNX file answers where there is one, else the weights, with the same probabilities; or the
file of an engine, which `vitrail export` made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from vitrail.data.decode import BrokenImage, decode, decode_image, read_file
from vitrail.data.labels import Labels
from vitrail.data.listing import collect
from vitrail.data.parallel import in_order
from vitrail.engines.sealed import open_sealed
from vitrail.errors import ConfigError
from vitrail.report.predictions import as_csv, as_json, as_table, show
from vitrail.run.folder import RunFolder

__all__ = ["Prediction", "Predictor", "as_csv", "as_json", "as_table", "collect", "predict", "show"]

BATCH = 32
NONE = "none of these"
NO_LABEL = "none"

Answer = Callable[[np.ndarray], np.ndarray]
# A file, the bytes of one, an image of Pillow's, or uint8 (H, W) or (H, W, 1, 3 or 4).
Picture: TypeAlias = "str | os.PathLike | bytes | bytearray | memoryview | np.ndarray | Image.Image"


@dataclass(frozen=True)
class Prediction:
    """The classes of an image with their probabilities, most likely first; or why there are none.

    `path` is the file's, or says which image it was. Below the `threshold`, where there is one,
    the likeliest class is not taken for an answer. In a run of several labels per image `chosen`
    has all that reach their thresholds, most likely first, possibly none; else it is None.
    `unfamiliar` says whether the image looks unlike all that the run learned from, so that no
    probability means anything; None where the run cannot know.
    """

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    threshold: float | None = None
    chosen: tuple[tuple[str, float], ...] | None = None
    unfamiliar: bool | None = None

    @property
    def none_of_these(self) -> bool:
        """Tell whether even the likeliest class is below the threshold, or no label is chosen."""
        if self.chosen is not None:
            return not self.chosen
        return bool(self.ranked) and self.ranked[0][1] < (self.threshold or 0)

    @property
    def answer(self) -> str | None:
        """Return the likeliest class, "none of these" below the threshold, None after an error.

        Of several labels it is their names, "cat; dog", or "none".
        """
        if not self.ranked:
            return None
        if self.chosen is not None:
            return "; ".join(name for name, _ in self.chosen) or NO_LABEL
        return NONE if self.none_of_these else self.ranked[0][0]


class Predictor:
    """A finished run that answers, in an `engine` that it was exported for where one is named.

    `threshold` is the probability below which the answer is "none of these", or that of every
    label where a run has several; by default the run's own, which may be none. Raises RunError when
    the folder is none, or has no file for the engine, and ConfigError for a threshold that is no
    probability.
    """

    def __init__(
        self,
        run: str | os.PathLike,
        *,
        engine: str | None = None,
        threshold: float | None = None,
    ) -> None:
        folder = RunFolder.open(run)
        self.labels = folder.read_labels()
        self.threshold = self.labels.threshold if threshold is None else threshold
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}: give a probability from 0 to 1")
        if engine is not None:
            self._answer = _deployed(folder, self.labels, engine)
        else:
            self._answer = _onnx(folder, self.labels) if folder.onnx.is_file() else _torch(folder)

    def predict(self, images: Picture | Iterable[Picture], top: int = 5) -> list[Prediction]:
        """Return a prediction for every image, in order, of the `top` classes.

        An image is a path, the bytes of a file, a Pillow image, or an array, uint8 (H, W) or
        (H, W, 1, 3 or 4 for transparency). One alone, or several; an array of four axes is
        several. What is no readable image gets its reason and stops nothing. Raises ConfigError
        for what is none of these, and for `top` below 1.
        """
        if top < 1:
            raise ConfigError(f"top is {top}: ask for one class at least")
        named = _named(images)
        batches = in_order(
            lambda rows: self._batch([named[row] for row in rows], top),
            len(named),
            size=BATCH,
            workers=None,
            title="predicting",
            progress=len(named) > BATCH,
        )
        return [found for batch in batches for found in batch]

    def of_pixels(self, images: np.ndarray, names: Sequence[str], top: int) -> list[Prediction]:
        """Return a prediction for each of uint8 (N, H, W, C), decoded at the size of the model."""
        shares, strange = self._answer(images), self._unfamiliar(images)
        rows = zip(names, shares, strange, strict=True)
        return [replace(self._prediction(n, s, top), unfamiliar=u) for n, s, u in rows]

    def _batch(self, some: Sequence[tuple[str, Picture]], top: int) -> list[Prediction]:
        decoded: list[np.ndarray] = []
        errors: dict[int, str] = {}
        for at, (_, picture) in enumerate(some):
            try:
                decoded.append(self._decoded(picture))
            except BrokenImage as error:
                errors[at] = error.reason
            except (OSError, ValueError) as error:
                errors[at] = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        read = [name for at, (name, _) in enumerate(some) if at not in errors]
        found = iter(self.of_pixels(np.stack(decoded), read, top) if read else ())
        return [
            Prediction(name, error=errors[at]) if at in errors else next(found)
            for at, (name, _) in enumerate(some)
        ]

    def _unfamiliar(self, images: np.ndarray) -> list[bool | None]:
        """Whether each image looks unlike all that the run learned from, if the run knows."""
        look = self.labels.look
        return [None] * len(images) if look is None else look.strange(images).tolist()

    def _decoded(self, picture: Picture) -> np.ndarray:
        """uint8 (H, W, C) as the model takes it. Raises BrokenImage, OSError, ValueError."""
        labels = self.labels
        if isinstance(picture, np.ndarray):
            picture = _from_array(picture)
        if isinstance(picture, Image.Image):
            return decode_image(picture, labels.image, labels.channels, labels.ranges)
        data = read_file(picture) if isinstance(picture, (str, os.PathLike)) else bytes(picture)
        return decode(data, labels.image, labels.channels, labels.ranges)

    def _prediction(self, name: str, shares: np.ndarray, top: int) -> Prediction:
        ranked = self._ranked(shares, len(shares))
        chosen = None
        if self.labels.several:
            bounds = dict(zip(self.labels.classes, self.labels.thresholds, strict=True))
            chosen = tuple(
                (label, share)
                for label, share in ranked
                if share >= (bounds[label] if self.threshold is None else self.threshold)
            )
        return Prediction(name, ranked[:top], threshold=self.threshold, chosen=chosen)

    def _ranked(self, shares: np.ndarray, top: int) -> tuple[tuple[str, float], ...]:
        order = np.argsort(-shares, kind="stable")[:top]
        return tuple((self.labels.classes[i], float(shares[i])) for i in order)


def predict(
    run: str | os.PathLike,
    images: Picture | Iterable[Picture],
    *,
    top: int = 5,
    engine: str | None = None,
    threshold: float | None = None,
) -> list[Prediction]:
    """Classify images with a finished run.

    Returns a prediction for every image, in order, of the `top` classes. `Predictor` says what
    may be given, and keeps the run open for more. Raises RunError and ConfigError.

    Examples:
        >>> [found] = vitrail.predict("run", "photos/cat/000.png", top=2)
        >>> found.path, len(found.ranked)
        ('photos/cat/000.png', 2)
        >>> name, probability = found.ranked[0]
        >>> found.answer == name
        True
    """
    return Predictor(run, engine=engine, threshold=threshold).predict(images, top=top)


def _named(images: Any) -> list[tuple[str, Picture]]:
    """Each image with its path, or with its number from 1. Raises ConfigError."""
    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    if isinstance(images, one) or (isinstance(images, np.ndarray) and images.ndim != 4):
        images = [images]
    if not isinstance(images, Iterable):
        raise ConfigError(_unknown("what is asked about", images))
    named: list[tuple[str, Picture]] = []
    for number, image in enumerate(images, 1):
        if not isinstance(image, (*one, np.ndarray)):
            raise ConfigError(_unknown(f"image {number}", image))
        is_path = isinstance(image, (str, os.PathLike))
        named.append((os.fsdecode(image) if is_path else f"image {number}", image))
    return named


def _unknown(what: str, image: object) -> str:
    return (
        f"{what} is of type {type(image).__name__}: give paths, bytes, Pillow images or arrays of "
        "uint8 (H, W) or (H, W, 3)"
    )


def _from_array(values: np.ndarray) -> Image.Image:
    """An array as an image. Raises BrokenImage for one of another shape or type."""
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    deep = values.ndim == 2 and values.dtype in (np.uint16, np.int32, np.float32)
    flat = values.dtype == np.uint8 and (values.ndim == 2 or values.shape[2:] in ((3,), (4,)))
    if not values.size or not (deep or flat):
        reason = f"is an array of {values.dtype} {values.shape}, not of uint8 (H, W) or (H, W, 3)"
        raise BrokenImage("unread", reason)
    return Image.fromarray(np.ascontiguousarray(values))


def _onnx(folder: RunFolder, labels: Labels) -> Answer:
    again = f"vitrail export {folder.path} --onnx"
    running = open_sealed(folder.onnx, labels, folder.read_tie(), again)
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
            return labels.probabilities(model(labels.normalised(images))).numpy()

    return answer
