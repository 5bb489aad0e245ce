"""A finished run behind HTTP: ONNX Runtime resizes and computes; torch is not needed."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vitrail.data.decode import decode_full
from vitrail.data.formats import known
from vitrail.engines.front import save_front
from vitrail.errors import ConfigError, RunError, extra
from vitrail.jobs.predict import Predictor
from vitrail.measure.session import session
from vitrail.report.predictions import answered
from vitrail.run.folder import RunFolder
from vitrail.serve.limits import Limits, Refused

if TYPE_CHECKING:
    from vitrail.serve.app import Server

TOP = 5


class Served:
    """A run's ONNX file as a server asks it: `decoded` by any thread, `answers` by one at a time.

    Pictures are resized by the graph that exported files begin with, which agrees to 1 of 255 with
    what the training saw. Raises RunError for a run without an exported file.
    """

    def __init__(self, run: Path, *, top: int = TOP, threshold: float | None = None) -> None:
        folder = RunFolder.open(run)
        if not folder.onnx.is_file():
            raise RunError(
                f"{folder.path} has no {folder.onnx.name}: write it by `vitrail export "
                f"{folder.path} --onnx`"
            )
        if top < 1:
            raise ConfigError(f"--top is {top}: ask for one class at least")
        self.predictor, self.top = Predictor(run, threshold=threshold), top
        self.labels = self.predictor.labels
        if self.labels.maps or self.labels.boxes:
            what = "masks" if self.labels.maps else "boxes"
            raise ConfigError(f"{folder.path} tells {what}, which are not served: use `predict`")
        if self.labels.hearing is not None:
            raise ConfigError(f"{folder.path} tells sounds, which are not served: use `predict`")
        if self.labels.takes != "images":
            raise ConfigError(
                f"{folder.path} takes {self.labels.takes}, and pictures are served alone so far: "
                "use `vitrail predict`, or its model.onnx"
            )
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "resize.onnx"
            save_front(self.labels, path)
            self._resize = session(path, threads=1)
        self.about: Mapping[str, Any] = _about(folder, self.labels.classes)

    def decoded(self, data: bytes, most_pixels: int) -> np.ndarray:
        """Return a file's picture, uint8 (H, W, C) at the size of the model."""
        pixels = _pixels(data)
        if pixels > most_pixels:
            raise Refused(
                413,
                f"the picture has {pixels:,} pixels, more than {most_pixels:,}: send a smaller one",
            )
        whole = decode_full(data, self.labels.channels, self.labels.ranges)
        if whole.shape[:2] == tuple(self.labels.image):
            return whole
        (found,) = self._resize.run(["pixels"], {"images": whole[None]})
        return np.asarray(found)[0].clip(0, 255).astype(np.uint8).transpose(1, 2, 0)

    def answers(self, images: np.ndarray) -> Sequence[Mapping[str, Any]]:
        """Return the answers in JSON, as `vitrail predict --json` does."""
        found = self.predictor.of_pixels(images, [""] * len(images), self.top)
        return [answered(one) for one in found]


def _pixels(data: bytes) -> int:
    """Return how many pixels a picture's header speaks of; 0 where it cannot be read, which is said
    when it is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=known()) as image:
            return image.width * image.height
    except Exception:
        # Pillow's parsers raise whatever the bytes make them stumble over.
        return 0


def _about(folder: RunFolder, classes: Sequence[str]) -> Mapping[str, Any]:
    result: Mapping[str, Any] = {}
    if folder.result.is_file():
        from vitrail.config import read_json

        result = read_json(folder.result, dict, remedy="write the run again")
    some = ", ".join(classes[:12]) + (" ..." if len(classes) > 12 else "")
    test = result.get("test") or {}
    right = f"{test['accuracy']:.1%} of {test['n']} test images right. " if "n" in test else ""
    title = (result.get("model") or {}).get("title") or folder.path.name
    return {
        "title": title, "classes": list(classes), "test": test,
        "sentence": f"{right}It tells {len(classes)} classes: {some}.",
    }  # fmt: skip


def server(
    run: Path, limits: Limits | None = None, *, top: int = TOP, threshold: float | None = None
) -> Server:
    """Return a server of a finished run, whose `app` is an ASGI application.

    Raises RunError and ConfigError, also where the extra `serve` is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"to serve a run needs packages that are not installed: {extra('serve')}"
        ) from None
    from vitrail.serve.app import Server

    return Server(Served(run, top=top, threshold=threshold), limits)
