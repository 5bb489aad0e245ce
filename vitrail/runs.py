"""A finished run as a value: what a script wants of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from markupsafe import escape

from vitrail.config import read_json
from vitrail.data.source import NOUNS
from vitrail.errors import RunError
from vitrail.jobs.predict import answering
from vitrail.jobs.prediction import Prediction
from vitrail.report.text import in_notebook, plain
from vitrail.run import dial
from vitrail.run.dial import Dial
from vitrail.run.folder import RESTORE, RunFolder
from vitrail.run.turn import Turns
from vitrail.units import count, counted, percent, seconds, shortened


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
        """Return all figures, as result.json has them. Raises RunError
        where the run is not finished.
        """
        return read_json(self._folder.result, dict, remedy="finish the run with --resume")

    @property
    def accuracy(self) -> float:
        """Return the share of test images that were answered rightly, in [0, 1].

        Raises RunError where something else says how good the run is; `score` always has it.
        """
        test = self._figures("test")
        if "accuracy" not in test and "name" in test:
            raise RunError(f"{self.path} is judged by {test['name']}: ask for its score")
        return _number(self._folder.result, test, "accuracy")

    @property
    def score(self) -> float:
        """Return the main figure of the test, in [0, 1]: accuracy, or mean average precision."""
        test = self._figures("test")
        name = str(test.get("name", "accuracy")).replace(" ", "_")
        return _number(self._folder.result, test, name)

    @property
    def latency_s(self) -> float:
        """Return the median seconds for one image, clip, series, sound or scan, as exported."""
        found = self.result
        if "latency" not in found and "scan_s" in found:
            return _number(self._folder.result, found, "scan_s")
        return _number(self._folder.result, self._figures("latency"), "p50_s")

    def _figures(self, name: str) -> dict[str, Any]:
        found = self.result.get(name)
        if not isinstance(found, dict):
            raise RunError(f"{self._folder.result} is damaged (it has no {name}): {RESTORE}")
        return found

    @property
    def report(self) -> Path:
        """Return the page that tells everything."""
        return self._folder.report

    @property
    def onnx(self) -> Path:
        """Return the file to deploy: uint8 images in, answers out."""
        return self._folder.onnx

    def model(self) -> Any:
        """Return the trained model in eval mode."""
        return self._folder.load_model()[0]

    def predict(self, images: Any, *, top: int = 5, **turns: Unpack[Turns]) -> list[Prediction]:
        """Answer for an image or several: paths, arrays, whatever `vitrail predict` takes.

        `turns` turn the run's dial, as `vitrail.predict` does.
        """
        return answering(self.path, **turns).predict(images, top=top)

    @property
    def dial(self) -> Dial:
        """Return what the weights reach and take at each setting. Raises
        RunError where there is one.
        """
        return dial.read(self._folder)

    def _repr_html_(self) -> str:
        """Show the answer in a notebook: figures, and a link to the report."""
        try:
            found = self.result
            return self._shown(found)
        except RunError as error:
            return str(escape(plain(str(error))))

    def _shown(self, found: Mapping[str, Any]) -> str:
        """Return the figures of a result as a table, whatever the run was trained for."""
        model = found.get("model", {})
        rows = self._tested(found)
        if "latency" in found or "scan_s" in found:
            rows.append(("latency as exported", seconds(self.latency_s)))
        for name, text in (("params", "parameters"), ("steps", "steps")):
            if isinstance(value := model.get(name, found.get(name)), int):
                rows.append((text, count(value)))
        name = model.get("title") or model.get("name") or self.path.name
        return in_notebook(str(name), rows, self.report)

    def _tested(self, found: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return what the test says: the main figure beside the baselines, or each of several."""
        test = found.get("test")
        if not isinstance(test, dict):
            return []
        if "low" not in test:  # sentences and what they are about find each other both ways
            shares = [(name, v) for name, v in test.items() if isinstance(v, float)]
            asked = [counted(v, name.removesuffix("s")) for name, v in test.items()
                     if isinstance(v, int)]  # fmt: skip
            rows = [(name, percent(value)) for name, value in shares]
            return [*rows, *([("tested on", ", ".join(asked))] if asked else [])]
        measure = test.get("name", "accuracy")
        key = measure.replace(" ", "_")
        interval = f"{percent(test['low'])} to {percent(test['high'])}"
        item, items = self._nouns()
        said = f"{percent(self.score)}, 95 % interval {interval}, {counted(test['n'], item, items)}"
        beside = found.get("baselines", ())
        return [
            (f"test {measure}", said), *((one.get("name", ""), percent(one[key])) for one in beside)
        ]  # fmt: skip

    def _nouns(self) -> tuple[str, str]:
        """Return what one of the things that are answered is called, and several."""
        if not self._folder.labels.is_file():
            return NOUNS["images"]
        if self._folder.of_scans():
            return NOUNS["scans"]
        labels = self._folder.read_labels()
        return labels.item, labels.items


def _number(file: Path, figures: Mapping[str, Any], name: str) -> float:
    """Return one of the figures of a file. Raises RunError where it is none."""
    found = figures.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise RunError(f"{file} is damaged (it has no {shortened(name)}): {RESTORE}")
    return found
