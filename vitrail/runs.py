"""A finished run as a value: what a script wants of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vitrail.config import read_json
from vitrail.errors import RunError
from vitrail.jobs.predict import Prediction, Predictor
from vitrail.run.folder import RunFolder


class Run(os.PathLike):
    """A finished run: its figures, its files, and answers for images.

        run = vitrail.fit("photos/", latency="20ms")
        run.accuracy, run.latency_s, run.onnx
        run.predict("cat.jpg")

    It may be given wherever a path is asked for.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._folder = RunFolder(self.path)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __repr__(self) -> str:
        return f"Run({os.fspath(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, os.PathLike) and os.fspath(self.path) == os.fspath(other)

    def __hash__(self) -> int:
        return hash(os.fspath(self.path))

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def result(self) -> dict[str, Any]:
        """All figures, as result.json has them. Raises RunError where the run is not finished."""
        return read_json(self._folder.result, dict, remedy="finish the run with --resume")

    @property
    def accuracy(self) -> float:
        """The share of test images that were answered rightly, in [0, 1].

        Raises RunError where something else says how good the run is; `score` always has it.
        """
        test = self.result["test"]
        if "accuracy" not in test:
            raise RunError(f"{self.path} is judged by {test['name']}: ask for its score")
        return test["accuracy"]

    @property
    def score(self) -> float:
        """The main figure of the test, in [0, 1]: accuracy, or mean average precision."""
        test = self.result["test"]
        return test[test.get("name", "accuracy").replace(" ", "_")]

    @property
    def latency_s(self) -> float:
        """The median seconds for one image, as exported."""
        return self.result["latency"]["p50_s"]

    @property
    def report(self) -> Path:
        """The page that tells everything."""
        return self._folder.report

    @property
    def onnx(self) -> Path:
        """The file to deploy: uint8 images in, answers out."""
        return self._folder.onnx

    def model(self) -> Any:
        """Return the trained model in eval mode."""
        return self._folder.load_model()[0]

    def predict(self, images: Any, *, top: int = 5) -> list[Prediction]:
        """Answer for an image or several: paths, arrays, whatever `vitrail predict` takes."""
        return Predictor(self.path).predict(images, top=top)

    def _repr_html_(self) -> str:
        """Show the answer in a notebook."""
        found = self.result
        test, model = found["test"], found["model"]
        return (
            f"<b>{model['name']}</b>: {self.score:.1%} "
            f"{test.get('name', 'accuracy')} on {test['n']} test images, "
            f"{1e3 * self.latency_s:.3g} ms an image; <a href='{self.report}'>report</a>"
        )
