"""Classify images, or their pixels, with a finished run; nothing but the run folder is read.

The ONNX file answers where there is one, else the weights, with the same probabilities; or the
file of an engine, which `vitrail export` made.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np

from vitrail.data.decode import resize
from vitrail.data.parallel import in_order
from vitrail.errors import ConfigError
from vitrail.jobs import boxes, class_answers, clips, masks
from vitrail.jobs.asked import Picture, asked
from vitrail.jobs.decoding import decoded
from vitrail.jobs.prediction import Prediction
from vitrail.jobs.scans import ScanPredictor
from vitrail.jobs.series import Case, cases
from vitrail.jobs.timely import Timely
from vitrail.run import dial as dials
from vitrail.run.dial import Point
from vitrail.run.folder import RunFolder
from vitrail.run.turn import Turns, turn

BATCH = 32


class Predictor:
    """A finished run that answers, in an `engine` that it was exported for where one is named.

    `threshold` is the probability below which the answer is "none of these", or that of every
    label where a run has several; by default the run's own, which may be none. `point` is one of
    the run's dial to answer at, by default that where it stands. Raises RunError when the folder is
    none, or has no file for the engine, and ConfigError for a threshold that is not a probability.
    """

    def __init__(
        self,
        run: str | os.PathLike,
        *,
        engine: str | None = None,
        threshold: float | None = None,
        point: Point | None = None,
    ) -> None:
        folder = RunFolder.open(run)
        self.labels, self.setting, self._told = folder.read_labels(), point and point.name, ""
        if point is not None:
            self.labels = point.labels(self.labels)
        self.threshold = self.labels.threshold if threshold is None else threshold
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold is {self.threshold}: give a probability from 0 to 1")
        self._run = folder
        if self.labels.maps:
            if engine is not None or threshold is not None:
                raise ConfigError(
                    f"{folder.path} gives masks: leave out {'engine' if engine else 'threshold'}"
                )
            self._mask = masks.mask_answer(folder, self.labels)
        elif self.labels.boxes:
            if engine is not None:
                raise ConfigError(f"{folder.path} gives boxes: leave out engine")
            self._boxes = boxes.box_answer(folder, self.labels)
        elif engine is not None:
            self._answer = class_answers.deployed(folder, self.labels, engine)
        elif point is not None:
            dial = dials.read(folder)
            self._answer = class_answers.turned(folder, dial, point)
            self._told = dial.said(point)
        else:
            self._answer = class_answers.usual(folder, self.labels)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        top: int = 5,
        *,
        out: str | os.PathLike | None = None,
    ) -> list[Prediction]:
        """Return a prediction for every image, in order, of the `top` classes.

        An image is a path, the bytes of a file, a Pillow image, or an array, uint8 (H, W) or
        (H, W, 1, 3 or 4 for transparency). One alone, or several; an array of four axes is
        several. What is not a readable image gets its reason and stops nothing. Raises ConfigError
        for what is none of these, and for `top` below 1. A run of masks or boxes writes them
        to `out`, if it is given: an empty folder, or one that is not there.
        """
        if self.labels.takes == "clips":
            return self._of_clips(clips.asked(images), top, out)
        if self.labels.takes == "series":
            return self._of_series(cases(images, self.labels), top, out)
        named = asked(images, top, self.labels.item)
        if out is not None and not self.writes:
            raise ConfigError(f"{self._run.path} gives no masks or boxes: leave out --out")
        target = None if out is None else Path(out)
        if target is not None:
            masks.check_out(target)
        files = masks.names([name for name, _ in named])

        def work(rows: range) -> list[Prediction]:
            if self.labels.maps:
                return [self._masked(*named[row], top, target, files[row]) for row in rows]
            if self.labels.boxes:
                return [self._boxed(*named[row], target, files[row]) for row in rows]
            return self._batch([named[row] for row in rows], top)

        batches = in_order(
            work,
            len(named),
            size=1 if self.writes else BATCH,
            workers=None,
            title="predicting",
            progress=len(named) > BATCH,
        )
        return [found for batch in batches for found in batch]

    @property
    def writes(self) -> bool:
        """Return whether answers are written to files: masks, or boxes."""
        return self.labels.maps or self.labels.boxes

    def _of_series(
        self, some: Sequence[Case], top: int, out: str | os.PathLike | None
    ) -> list[Prediction]:
        self._require_no_masks(out)
        return [
            found
            for at in range(0, len(some), BATCH)
            for found in self._answered(some[at : at + BATCH], top)
        ]

    def _of_clips(
        self, some: Sequence[clips.Asked], top: int, out: str | os.PathLike | None
    ) -> list[Prediction]:
        """Return predictions of clips, each by the mean probability of its views."""
        self._require_no_masks(out)

        def work(rows: range) -> list[Prediction]:
            return [self._of_clip(*some[row], top) for row in rows]

        batches = in_order(
            work, len(some), size=1, workers=None, title="predicting", progress=len(some) > BATCH
        )
        return [found for batch in batches for found in batch]

    def _of_clip(self, name: str, given: Path | np.ndarray, top: int) -> Prediction:
        views = clips.views(given, self.labels)
        if isinstance(views, str):
            return Prediction(name, error=views)
        return self._prediction(name, self.answers(views).mean(0), top)

    def _require_no_masks(self, out: str | os.PathLike | None) -> None:
        if out is not None:
            raise ConfigError(f"{self._run.path} gives no masks: leave out --out")

    def free_folder(self) -> Path:
        """Return a folder in the working directory for masks or boxes, not there yet."""
        return masks.mask_folder(self._run, "masks" if self.labels.maps else "boxes")

    def of_pixels(self, images: np.ndarray, names: Sequence[str], top: int) -> list[Prediction]:
        """Return a prediction for each of uint8 (N, H, W, C), decoded at the size of the model."""
        rows = zip(names, self.answers(images), self._unfamiliar(images), strict=True)
        return [replace(self._prediction(n, s, top), unfamiliar=u) for n, s, u in rows]

    def _batch(self, some: Sequence[tuple[str, Picture]], top: int) -> list[Prediction]:
        return self._answered([(name, self.decoded(picture)) for name, picture in some], top)

    def _answered(self, some: Sequence[tuple[str, np.ndarray | str]], top: int) -> list[Prediction]:
        """Return predictions of what the model takes, or the reasons why there is nothing."""
        images = [one for _, one in some if not isinstance(one, str)]
        names = [name for name, one in some if not isinstance(one, str)]
        found = iter(self.of_pixels(np.stack(images), names, top) if images else ())
        return [
            Prediction(name, error=image) if isinstance(image, str) else next(found)
            for name, image in some
        ]

    def answered(self, name: str, image: np.ndarray | str, top: int) -> Prediction:
        """Return the prediction for one image as `decoded` gives it."""
        if isinstance(image, str):
            return Prediction(name, error=image)
        return self.of_pixels(image[None], [name], top)[0]

    def answers(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities (N, classes) of uint8 (N, H, W, C) at the model's size."""
        return self._answer(images)

    def said(self, found: Sequence[Prediction]) -> str:
        """Say at which setting of a dial the images were answered; "" where it was not turned."""
        return self._told

    def _masked(
        self, name: str, picture: Picture, top: int, out: Path | None, file: str
    ) -> Prediction:
        """Return the mask of one image at its own size, and the files that it is written to."""
        image = self.decoded(picture, whole=True)
        if isinstance(image, str):
            return Prediction(name, error=image)
        mask = self._mask(image)
        [strange] = self._unfamiliar(resize(image[None], self.labels.image))
        ranked = self._ranked(masks.shares(mask, self.labels), top)
        written = None if out is None else masks.write(out, file, image, mask, self.labels)
        there = tuple((label, share) for label, share in ranked if share)
        return Prediction(name, there, unfamiliar=strange, mask=mask, written=written)

    def _boxed(self, name: str, picture: Picture, out: Path | None, file: str) -> Prediction:
        """Return boxes of one image in its own pixels, and the files that they are written to."""
        image = self.decoded(picture, whole=True)
        if isinstance(image, str):
            return Prediction(name, error=image)
        found = boxes.listed(
            self._boxes(image), self.labels, self.threshold or 0.0, (image.shape[0], image.shape[1])
        )
        [strange] = self._unfamiliar(resize(image[None], self.labels.image))
        written = None if out is None else boxes.write(out, file, image, found, self.labels)
        return Prediction(
            name, threshold=self.threshold, unfamiliar=strange, boxes=found, written=written
        )

    def _unfamiliar(self, images: np.ndarray) -> list[bool | None]:
        """Return whether each image looks unlike all that the run learned
        from, if the run knows.
        """
        look = self.labels.look
        return [None] * len(images) if look is None else look.strange(images).tolist()

    def decoded(self, picture: Picture, *, whole: bool = False) -> np.ndarray | str:
        """Return uint8 (H, W, C) as the model takes it, or `whole` at its own size, or why not."""
        return decoded(picture, self.labels, whole=whole)

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
        return Prediction(
            name, ranked[:top], threshold=self.threshold, chosen=chosen, setting=self.setting
        )

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
    out: str | os.PathLike | None = None,
    **turns: Unpack[Turns],
) -> list[Prediction]:
    """Classify images, their pixels, or points of lidar scans, with a finished run.

    Returns a prediction for every image, in order, of the `top` classes. `Predictor` says what
    may be given, and keeps the run open for more; `out` is a folder for masks. `turns` turn the
    dial of a run that has one: latency="5ms", dial=0.4 or deadline="20ms". Raises RunError,
    ConfigError and BudgetError.

    Examples:
        >>> [found] = vitrail.predict("run", "photos/cat/000.png", top=2)
        >>> found.path, len(found.ranked)
        ('photos/cat/000.png', 2)
        >>> name, probability = found.ranked[0]
        >>> found.answer == name
        True
    """
    opened = answering(run, engine=engine, threshold=threshold, **turns)
    return opened.predict(images, top=top, out=out)


def answering(
    run: str | os.PathLike,
    *,
    engine: str | None = None,
    threshold: float | None = None,
    **turns: Unpack[Turns],
) -> Predictor | Timely | ScanPredictor:
    """Open a run to answer, its dial turned where that is asked for. Raises VitrailError."""
    wish = turn(turns)
    folder = RunFolder.open(run)
    if folder.of_scans():
        if wish is not None or engine is not None or threshold is not None:
            raise ConfigError(
                f"{folder.path} answers for points of scans in one way: leave out engine, "
                "threshold and dial"
            )
        return ScanPredictor(folder)
    if wish is None:
        return Predictor(run, engine=engine, threshold=threshold)
    if engine is not None:
        raise ConfigError(
            f"engine {engine} answers at one setting of a dial: leave out the engine, or the limit"
        )
    dial = dials.read(RunFolder.open(run))
    if wish.deadline_s is not None:
        at = {p.name: Predictor(run, threshold=threshold, point=p) for p in dial.front}
        return Timely(dial, wish.deadline_s, at)
    return Predictor(run, threshold=threshold, point=wish.picked(dial))
