"""`vitrail export RUN --engine openvino --int8`: the files, what they lose, and the clock.

A file is accepted as the ONNX file is: logits within 1e-4 and every class the same. int8 is
accepted within a budget of accuracy, and recommended only where it is faster on this machine.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.labels import Labels
from vitrail.data.parallel import bar
from vitrail.engines import Engine, engine
from vitrail.engines.int8 import Images, Int8, quantise
from vitrail.engines.onnx import compare, export_onnx, synthetic
from vitrail.errors import ConfigError, RunError
from vitrail.measure.latency import Latency, ratio, summary, turns
from vitrail.measure.machine import cores, machine
from vitrail.models import config_json
from vitrail.run import record
from vitrail.run.folder import RunFolder
from vitrail.run.images import real_images

MAX_DROP = 0.5
SECONDS = 1.5
BATCH = 32


@dataclass(frozen=True)
class Deployed:
    """A run's files for one engine, with one image at a time on `threads` threads.

    `latency` is by file: "model.onnx" is always among them, as what one has without further
    ado; `gain` is of a file over the one before it, as `measure.latency.ratio` gives it; `use` the
    engine's own file that is fastest here; `largest` the largest difference of a logit from the
    model in torch.
    """

    engine: str
    title: str
    use: str
    latency: Mapping[str, Latency]
    gain: Mapping[str, tuple[float, float, float]]
    threads: int
    largest: float
    compared_on: str
    int8: Int8 | None = None

    def said(self, run: Path) -> str:
        """The answer in a few lines, with nothing called faster that is not."""
        onnx, *others = self.latency
        own = next((file for file in others if ".int8." not in file), onnx)
        lines = [f"{run / own}: logits differ by at most {self.largest:.1e} on {self.compared_on}"]
        if self.int8:
            lines.append(f"{run / others[-1]}: {_lost(self.int8)}")
        lines += [f"{file}: {_clock(one)}" for file, one in self.latency.items()]
        if own != onnx:
            lines.append(self._faster(self.title, own, onnx))
        if self.int8:
            lines.append(self._faster("int8", others[-1], own))
        lines.append(f"{self.use} is the one to use in {self.title} on this machine")
        return "\n".join(lines)

    def _faster(self, what: str, new: str, old: str) -> str:
        mine, theirs = (f"{self.latency[file].p50_s * 1e3:.2f} ms" for file in (new, old))
        middle, low, high = self.gain[new]
        figures = (
            f"{mine} against {theirs}, ratio {middle:.2f}, 95 % interval {low:.2f} to {high:.2f}"
        )
        if low > 1:
            return f"{what} is faster than {old} here: {figures}"
        stays = f"; {old} stays the one to use" if what == "int8" else ""
        return f"{what} is not faster than {old} on this machine: {figures}{stays}"


def _lost(int8: Int8) -> str:
    kept = f"{len(int8.kept)} of {int8.nodes} nodes stay in float" if int8.kept else "all nodes"
    whole = f", all of int8 would get {int8.whole:.2%}" if int8.kept else ""
    return (
        f"{int8.accuracy:.2%} of {int8.n} held-back images right, in float "
        f"{int8.float_accuracy:.2%} (allowed: {int8.max_drop:g} points less); {kept}{whole}"
    )


def _clock(latency: Latency) -> str:
    p95 = latency.p95_s or latency.p90_s
    return f"p50 {latency.p50_s * 1e3:.2f} ms, p95 {p95 * 1e3:.2f} ms, {latency.n} runs in turns"


def export_engine(
    path: str | os.PathLike,
    name: str,
    *,
    int8: bool = False,
    max_drop: float = MAX_DROP,
    data: str | os.PathLike | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Deployed:
    """Make a finished run's files for an engine, accept them and time them.

    `max_drop` is in percentage points of top-1 on held-back images; `data` gives images where
    the run's own are gone. Files that were there stay when the new ones are refused. Raises
    VitrailError.
    """
    if not 0 <= max_drop <= 100:
        raise ConfigError(f"--max-drop is {max_drop:g}: give percentage points of 0 to 100")
    RunFolder.open(path)
    chosen = engine(name)
    with RunFolder.create(path, resume=True) as run:
        model, recipe, labels = run.load_model()
        images = None
        if int8 or data is not None:
            images = real_images(run, recipe, labels, data, progress=progress)
        with tempfile.TemporaryDirectory(prefix=".engine", dir=run.path) as scratch:
            return _make(
                chosen, run, model, labels, images, Path(scratch),
                max_drop=max_drop if int8 else None, threads=threads or cores(), progress=progress,
            )  # fmt: skip


def _make(
    chosen: Engine,
    run: RunFolder,
    model: Any,
    labels: Labels,
    images: Images | None,
    scratch: Path,
    *,
    max_drop: float | None,
    threads: int,
    progress: bool,
) -> Deployed:
    """Everything is made and measured in `scratch`; what is accepted moves into the run."""
    held = images.held if images else synthetic(labels)
    described = f"{len(held)} {'held-back' if images else 'synthetic'} images"
    onnx = run.onnx
    if not onnx.is_file():
        export_onnx(
            model, labels, onnx, images=held, config=config_json(model.config),
            described=described, progress=progress,
        )  # fmt: skip
    floating = converted(chosen.name, onnx, labels, scratch)
    answer = chosen.open(floating, labels, threads=threads)
    with bar("comparing", len(held), shown=progress) as advance:
        largest = compare(model, labels, lambda batch: answer(batch)[1], held, advance)
    small = scratch / chosen.int8_file
    int8 = None
    if max_drop is not None and images is not None:
        int8 = quantise(
            chosen.quantiser(floating, images.calibration, scratch),
            answer,
            images,
            small,
            open_file=lambda path: chosen.open(path, labels, threads=threads),
            max_drop=max_drop,
            progress=progress,
        )
    files = {onnx: "onnxruntime", floating: chosen.name} | ({small: chosen.name} if int8 else {})
    spent = timed(files, labels, held[:1], threads, SECONDS, progress)
    gain = {new: ratio(spent[old], spent[new]) for old, new in pairwise(spent)}
    latency = {file: summary(times) for file, times in spent.items()}
    use = small.name if int8 and gain[small.name][1] > 1 else floating.name
    made = Deployed(
        chosen.name, chosen.title, use, latency, gain, threads, largest, described, int8
    )  # fmt: skip
    settle(run, chosen, made, scratch)
    return made


def converted(name: str, onnx: Path, labels: Labels, scratch: Path) -> Path:
    """The float file of the engine `name`, made in `scratch`; of ONNX Runtime it is `onnx`."""
    chosen = engine(name)
    if chosen.file == onnx.name:
        return onnx
    chosen.convert(onnx, labels, scratch / chosen.file)
    return scratch / chosen.file


def logits(name: str, file: Path, labels: Labels, images: np.ndarray) -> np.ndarray:
    """What the engine `name` answers with its file: float32 (N, classes)."""
    answer = engine(name).open(file, labels)
    parts = [answer(images[at : at + BATCH])[1] for at in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def timed(
    files: Mapping[Path, str],
    labels: Labels,
    image: np.ndarray,
    threads: int,
    seconds: float,
    progress: bool = False,
) -> dict[str, list[float]]:
    """Seconds of each run of each file, by its name, in turns and in one process.

    `files` are with the names of their engines, `image` is uint8 (1, H, W, C); each file gets
    about `seconds`.
    """
    calls = {
        file.name: engine(name).open(file, labels, threads=threads, single=True)
        for file, name in files.items()
    }
    image = np.ascontiguousarray(image)
    asked = [lambda answer=answer: answer(image) for answer in calls.values()]
    total = int(1000 * seconds * len(calls))
    with bar("timing, in ms", total, shown=progress) as advance:
        found = turns(asked, seconds=seconds, advance=lambda s: advance(int(1000 * s)))
    return dict(zip(calls, found, strict=True))


def settle(run: RunFolder, chosen: Engine, made: Deployed, scratch: Path) -> None:
    """Move what was accepted from `scratch` into the run, and write its record.

    Raises RunError when it cannot be written.
    """
    for file in (scratch / chosen.file, scratch / chosen.int8_file):
        if file.is_file() and file.name in made.latency:
            _move(chosen, file, run)
    if made.int8 is None:
        # What an earlier export left would be of no record.
        for part in chosen.files(run.path / chosen.int8_file):
            part.unlink(missing_ok=True)
    _note(run, made, chosen)


def _move(chosen: Engine, file: Path, run: RunFolder) -> None:
    try:
        for part in chosen.files(file):
            os.replace(part, run.path / part.name)
    except OSError as error:
        raise RunError(
            f"{run.path / file.name} cannot be written ({error.strerror}): free some space"
        ) from error


def _note(run: RunFolder, made: Deployed, chosen: Engine) -> None:
    told = {k: v for k, v in asdict(made).items() if k not in ("engine", "title")}
    record.write(run, made.engine, told | {"machine": machine() | {chosen.name: chosen.version}})
