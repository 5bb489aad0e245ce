"""`vitrail export RUN --engine openvino --int8`: files for an engine, their loss and their speed.

A file is accepted as the ONNX file is: logits within 1e-4 and every class the same. int8 is
accepted within a budget of the task's score, and recommended only where it is faster here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import files
from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.data.parallel import bar
from vitrail.engines import Answer, Engine, engine
from vitrail.engines.int8 import Images, Int8, quantise
from vitrail.engines.onnx import compare, export_onnx, synthetic
from vitrail.engines.sealed import open_sealed
from vitrail.errors import ConfigError, RunError
from vitrail.measure.latency import Latency, ratio, summary, threads_set, turns
from vitrail.measure.machine import cores, machine
from vitrail.models import config_json
from vitrail.run import record
from vitrail.run.folder import RunFolder
from vitrail.run.images import real_images
from vitrail.units import counted

MAX_DROP = 0.5
SECONDS = 1.5
BATCH = 32


@dataclass(frozen=True)
class Deployed:
    """A run's files for one engine, timed with one image at a time on `threads` threads.

    `latency` is by file; "model.onnx", which every run has, is always among them. `gain` says how
    many times as fast a file is as the one before it, as `measure.latency.ratio` gives it; `use`
    is the engine's own file that is fastest here; `largest` the largest difference of a logit from
    the model in torch.
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
        """Say the result in a few lines, and call nothing faster that is not."""
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
        lines.append(f"{self.use} is the file to use with {self.title} on this machine")
        return "\n".join(lines)

    def _faster(self, what: str, new: str, old: str) -> str:
        """Compare two files by the ratio of runs in turns alone; medians only agree or do not."""
        middle, low, high = self.gain[new]
        figures = f"95 % interval {low:.2f} to {high:.2f}, runs in turns"
        stays = f"; {old} stays the one to use" if what == "int8" else ""
        if low <= 1 <= high:
            return f"{what} is not faster than {old} here beyond noise ({figures}){stays}"
        if not _agreed(self.latency[new], self.latency[old], low > 1):
            return (
                f"the machine was too busy to compare {what} with {old}: the medians contradict "
                f"the ratio of runs in turns ({figures}){stays}"
            )
        said = f"{what} is {middle:.2f} times as fast as {old} here ({figures})"
        return said if low > 1 else said + stays


def _agreed(new: Latency, old: Latency, faster: bool) -> bool:
    """Return whether the medians say of `new` what the runs in turns say."""
    return (new.p50_s < old.p50_s) == faster


def _lost(int8: Int8) -> str:
    kept = "all nodes are in int8"
    if int8.kept:
        kept = f"{len(int8.kept)} of {int8.nodes} nodes stay in float"
        kept += f", with all in int8 it would be {int8.whole:.2%}"
    held = counted(int8.n, "held-back image")
    reached = (
        f"{int8.score:.2%} of {held} right"
        if int8.name == "accuracy"
        else f"{int8.name} {int8.score:.2%} on {held}"
    )
    return (
        f"{reached}, in float {int8.float_score:.2%} (allowed: {int8.max_drop:g} points less); "
        f"{kept}"
    )


def _clock(latency: Latency) -> str:
    p95 = latency.p95_s or latency.p90_s
    runs = counted(latency.n, "run")
    return f"p50 {latency.p50_s * 1e3:.2f} ms, p95 {p95 * 1e3:.2f} ms, {runs} in turns"


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

    `max_drop` is in percentage points of the task's main score on held-back images, accuracy or
    mean average precision; `data` gives images where the run's own are gone. Files that were there
    stay when the new ones are refused. Raises VitrailError.
    """
    if not 0 <= max_drop <= 100:
        raise ConfigError(f"--max-drop is {max_drop:g}: give 0 to 100 percentage points")
    RunFolder.open(path)
    chosen = engine(name)
    with RunFolder.create(path, resume=True) as run:
        model, recipe, labels = run.load_model()
        if labels.maps or labels.boxes:
            raise ConfigError(
                f"{run.path} gives {'masks' if labels.maps else 'boxes'}, which only its "
                "model.onnx does so far: leave out --engine"
            )
        if labels.takes != "images":
            raise ConfigError(
                f"{run.path} takes {labels.takes}, for which model.onnx is the only file so far: "
                "leave out --engine"
            )
        images = None
        if int8 or data is not None:
            images = real_images(run, recipe, labels, data, progress=progress)
        with run.scratch() as scratch:
            return deployed(
                chosen, Given(run, model, labels, images), scratch,
                max_drop=max_drop if int8 else None, threads=threads or cores(), progress=progress,
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Given:
    """A run with its model, and the images that it is measured on, None where there are none."""

    run: RunFolder
    model: Any
    labels: Labels
    images: Images | None


def deployed(
    chosen: Engine,
    given: Given,
    scratch: Path,
    *,
    max_drop: float | None,
    threads: int,
    progress: bool,
) -> Deployed:
    """Make, accept and time a run's files for an engine, with `max_drop` in integers as well.

    Everything is made and measured in `scratch`; what is accepted moves into the run.
    """
    run, model, labels, images = given.run, given.model, given.labels, given.images
    held = images.held if images else synthetic(labels)
    described = f"{len(held)} {'held-back' if images else 'synthetic'} {labels.items}"
    if not _is_ours(run, labels):
        export_onnx(
            model, labels, run.onnx, images=held, config=config_json(model.config),
            described=described, progress=progress,
        )  # fmt: skip
    floating, small = converted(chosen.name, run.onnx, labels, scratch), scratch / chosen.int8_file
    answer = chosen.open(floating, labels, threads=threads)
    with bar("comparing", len(held), shown=progress) as advance:
        largest = compare(model, labels, lambda batch: answer(batch)[1], held, advance)
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
    made = {run.onnx: "onnxruntime", floating: chosen.name} | ({small: chosen.name} if int8 else {})
    (spent,) = timed(made, labels, [held[:1]], threads, SECONDS, progress)
    gain = {new: ratio(spent[old], spent[new]) for old, new in pairwise(spent)}
    latency = {file: summary(times) for file, times in spent.items()}
    quick = int8 and gain[small.name][1] > 1
    quick = quick and _agreed(latency[small.name], latency[floating.name], faster=True)
    use = small.name if quick else floating.name
    found = Deployed(
        chosen.name, chosen.title, use, latency, gain, threads, largest, described, int8
    )  # fmt: skip
    settle(run, chosen, found, scratch)
    return found


def _is_ours(run: RunFolder, labels: Labels) -> bool:
    """Return whether the run's ONNX file is there and of these weights and labels."""
    if not run.onnx.is_file():
        return False
    try:
        open_sealed(run.onnx, labels, run.read_tie(), "vitrail export")
    except RunError:
        return False
    return True


def converted(name: str, onnx: Path, labels: Labels, scratch: Path) -> Path:
    """Return the float file of the engine `name`, made in `scratch`; ONNX Runtime's is `onnx`."""
    chosen = engine(name)
    if chosen.file == onnx.name:
        return onnx
    chosen.convert(onnx, labels, scratch / chosen.file)
    return scratch / chosen.file


def logits(name: str, file: Path, labels: Labels, images: np.ndarray) -> np.ndarray:
    """Return the logits that the engine `name` computes with its file: float32 (N, classes)."""
    answer = engine(name).open(file, labels)
    parts = [answer(images[at : at + BATCH])[1] for at in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def timed(
    files: Mapping[Path, str],
    labels: Labels,
    images: Sequence[np.ndarray],
    threads: int,
    seconds: float,
    progress: bool = False,
) -> list[dict[str, list[float]]]:
    """Measure the seconds of each run of each file, by its name, in turns and in one process.

    `files` maps each file to the name of its engine. `images` are uint8 (1, h, w, C) of any sizes,
    each of which gets an entry of the answer: where a file takes the model's size only, the time
    includes the resize before it. Each file gets about `seconds` for each image.
    """
    asked: list[Callable[[], Any]] = []
    for file, name in files.items():
        chosen = engine(name)
        answer = chosen.open(file, labels, threads=threads, single=True)
        any_size = chosen.resizes(file)
        for image in map(np.ascontiguousarray, images):
            fits = any_size or image.shape[1:3] == tuple(labels.image)
            asked.append(
                partial(answer, image) if fits else partial(_resized, answer, image, labels)
            )
    total = int(1000 * seconds * len(asked))
    with bar("timing, in ms", total, shown=progress) as advance, threads_set(threads):
        found = turns(asked, seconds=seconds, advance=lambda s: advance(int(1000 * s)))
    names = [file.name for file in files]
    return [dict(zip(names, found[at :: len(images)], strict=True)) for at in range(len(images))]


def _resized(answer: Answer, image: np.ndarray, labels: Labels) -> Any:
    """Answer by a file that does not resize itself."""
    return answer(resize(image, labels.image))


def settle(run: RunFolder, chosen: Engine, made: Deployed, scratch: Path) -> None:
    """Move the accepted files from `scratch` into the run, and write its record.

    Raises RunError when it cannot be written.
    """
    for file in (scratch / chosen.file, scratch / chosen.int8_file):
        if file.is_file() and file.name in made.latency:
            _move(chosen, file, run)
    if made.int8 is None:
        # What an earlier export left would be of no record.
        for part in chosen.files(run.path / chosen.int8_file):
            part.unlink(missing_ok=True)
    note(run, made, chosen)


def _move(chosen: Engine, file: Path, run: RunFolder) -> None:
    try:
        for part in chosen.files(file):
            files.move(part, run.path / part.name)
    except OSError as error:
        raise RunError(
            f"{run.path / file.name} cannot be written ({files.reason(error)}): free some space, "
            "then do it again"
        ) from error


def note(run: RunFolder, made: Deployed, chosen: Engine) -> None:
    """Write the record of an engine's files, which belong to the weights that the run has now."""
    told = {k: v for k, v in asdict(made).items() if k not in ("engine", "title")}
    record.write(run, chosen, told | {"machine": machine() | {chosen.name: chosen.version}})
