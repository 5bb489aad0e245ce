"""The run folder: everything that a training leaves behind, in a folder that explains itself.

    recipe.json          how to train it again, complete
    labels.json          class names, and how images become numbers
    weights.safetensors  the weights, without pickle; with a base, those that it lacks
    metrics.jsonl        the journal of the training
    result.json          test figures
    model.onnx           uint8 images in, calibrated probabilities out
    sound.onnx           of a run of sounds: a waveform in, the same out
    model.xml  model.bin the same for OpenVINO, where asked for; with .int8 in front, in integers
    engine.json          which of these files each engine had best answer with, and the figures
    dial.json            what the weights reach and take at each setting, where they have several
    dial                 files of these settings, where asked for, and the weights that they share
    report.html          the report
    found.json           of a search: the network that it found, a model that other commands take
    look-at.csv          what deserves a look: suspected labels, outliers, copies, broken files
    README.md            the model card

Whoever writes holds the folder's lock; every file is written whole or not at all. The digest in
labels.json and in model.onnx is of weights and labels together: files of two runs, or of two
versions of one, do not answer together.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vitrail import files
from vitrail.config import read_json
from vitrail.data.labels import Labels
from vitrail.errors import CheckpointError, ConfigError, RunError
from vitrail.run import lock, place

if TYPE_CHECKING:
    from torch import nn

# What labels.json says besides the labels: the digest of them and the weights they belong to.
TIE = "of"
RESTORE = "restore the folder, or train again"


class RunFolder:
    """A run folder at `path`; made by `create` or `open`.

    As a context manager it gives up the lock that `create` took.
    """

    def __init__(self, path: str | os.PathLike, *, lock: int | None = None) -> None:
        self.path = Path(path)
        self._lock = lock

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.json"

    @property
    def labels(self) -> Path:
        return self.path / "labels.json"

    @property
    def weights(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def onnx(self) -> Path:
        return self.path / "model.onnx"

    @property
    def sound(self) -> Path:
        return self.path / "sound.onnx"

    @property
    def engines(self) -> Path:
        return self.path / "engine.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def looks(self) -> Path:
        return self.path / "look-at.csv"

    @property
    def readme(self) -> Path:
        return self.path / "README.md"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    # ---- making and opening ------------------------------------------------------------

    check_free = staticmethod(place.check_free)
    check_writable = staticmethod(place.check_writable)

    def evaluations(self) -> Path:
        """Return where evaluations of the run are written. Raises RunError where that cannot be."""
        path = self.path / "evaluations"
        try:
            there = path if os.path.lexists(path) else self.path
            with tempfile.TemporaryFile(dir=there, prefix=".", suffix=files.PART):
                return path
        except OSError as error:
            raise RunError(
                f"{path} cannot be written ({files.reason(error)}): make room for a folder there, "
                "or evaluate a copy of the run"
            ) from error

    @classmethod
    def create(cls, path: str | os.PathLike, *, resume: bool = False) -> Self:
        """Make the folder, or take up the one that is there, and hold its lock.

        Whatever a killed process left half-written in a run is removed. Raises RunError when it
        exists and is not empty (unless `resume`), when there is none to resume, when it cannot be
        written, and when another process writes to it.
        """
        path = Path(path)
        kind = place.kind(path)
        if resume and kind is None:
            raise RunError(f"run folder {path} does not exist: start it without --resume")
        if resume and kind != "folder":
            raise RunError(f"run folder {path} is a file: give the folder of a run")
        if not resume:
            cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"run folder {path} cannot be made ({error.strerror}): name another with --out"
            ) from error
        run = cls(path, lock=lock.hold(path))
        try:
            # Two runs may have found it free at once; the second then finds the first's files.
            if not resume:
                cls.check_free(path)
            run._sweep()
        except BaseException:
            run.release()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Open a finished run, to read. Raises RunError when it is none."""
        run = cls(path)
        kind = place.kind(run.path)
        if kind != "folder":
            what = "does not exist" if kind is None else "is a file"
            raise RunError(f"run folder {path} {what}: give the folder that `vitrail fit` made")
        missing = [f.name for f in (run.recipe, run.labels, run.weights) if place.kind(f) != "file"]
        if missing:
            finish, give = "finish it with --resume", "give a folder that `vitrail fit` made"
            remedy = finish if run._begun else give
            raise RunError(f"run folder {path} has no {', '.join(missing)}: {remedy}")
        return run

    @property
    def _begun(self) -> bool:
        """Return whether the folder is that of a run, finished or not."""
        return self.checkpoints.is_dir() or (self.path / "fit.json").is_file()

    def _sweep(self) -> None:
        """Remove what killed processes left, where this is a run's folder and nobody else's."""
        if self._begun or (self.recipe.is_file() and self.labels.is_file()):
            with suppress(OSError):
                files.sweep(self.path)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder inside, on the same file system, for files that are not accepted yet.

        It is gone at the end; after a kill, when the run is opened for writing again.
        """
        try:
            made = Path(tempfile.mkdtemp(prefix=".scratch.", suffix=files.PART, dir=self.path))
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def release(self) -> None:
        """Give up the lock, if it is held."""
        if self._lock is not None:
            handle, self._lock = self._lock, None
            lock.release(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # ---- writing -----------------------------------------------------------------------

    def write_text(self, file: Path, text: str) -> None:
        """Write a file of this folder whole or not at all. Raises RunError."""
        _write(file, text)

    def write_bytes(self, file: Path, data: bytes) -> None:
        """Write a file of this folder whole or not at all. Raises RunError."""
        _write(file, data)

    def write_json(self, file: Path, value: Any) -> None:
        """Write `value` as JSON, whole or not at all. Raises RunError."""
        self.write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def save_model(self, model: nn.Module, recipe: Mapping[str, Any], labels: Labels) -> None:
        """Write weights, recipe and labels: all that `load_model` needs.

        `recipe` is JSON whose "model" is the model's config; where it has a "base", only what this
        lacks is written.
        """
        from safetensors import SafetensorError

        from vitrail import checkpoint, digests
        from vitrail.recipes import base as bases
        from vitrail.recipes.build import parted

        weights = kept = model.state_dict()
        metadata = {"config": recipe["model"]}
        if recipe.get("base"):
            kept, metadata[bases.KEY] = parted(model, recipe, self.path)
        try:
            checkpoint.save(self.weights, kept, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise _unwritable(self.weights, error) from error
        self.write_json(self.labels, labels.to_json() | {TIE: digests.of_model(weights, labels)})
        self.write_json(self.recipe, recipe)

    # ---- reading -----------------------------------------------------------------------

    def of_scans(self) -> bool:
        """Return whether the run answers for points of lidar scans, and not for images."""
        if not self.recipe.is_file():
            return False
        task = read_json(self.recipe, dict, remedy=RESTORE).get("task")
        return isinstance(task, dict) and task.get("kind") == "lidar"

    def read_labels(self, *, scans: bool = False) -> Labels:
        """Read class names and normalisation. Raises RunError, also for weights that know no
        classes, and for a run of lidar scans unless the caller knows `scans`.
        """
        self._require_classes()
        if not scans and self.of_scans():
            raise RunError(
                f"{self.path} answers for points of lidar scans, and this is for images: ask it by "
                f"`vitrail predict {self.path} SCANS`"
            )
        classless = read_json(self.labels, dict, remedy=RESTORE).get("classes") == []
        fit = self.path / "fit.json"
        if classless and fit.is_file() and "pretraining" in read_json(fit, dict, remedy=RESTORE):
            raise RunError(
                f"{self.path} was made by `vitrail pretrain` and knows no classes: fit with "
                f"--pretrained {self.path}, or ask it by `vitrail probe`"
            )
        return read_json(self.labels, Labels, remedy=RESTORE, leave_out=(TIE,))

    def _require_classes(self) -> None:
        """Raise RunError where classes are known only when somebody asks for them in words."""
        recipe = read_json(self.recipe, dict, remedy=RESTORE) if self.recipe.is_file() else {}
        task = recipe.get("task")
        kind = task.get("kind") if isinstance(task, dict) else None
        if kind == "multi_modal":
            raise RunError(
                f"{self.path} was trained on clips with sounds and sentences and has no classes of "
                f"its own: ask it by `vitrail predict {self.path} CLIPS --classes 'a dog,a cat'`, "
                f"or learn some by `vitrail train --set task=video --set model={self.recipe} --set "
                f"pretrained={self.path} --set data=CLIPS`"
            )
        if kind == "open_vocabulary":
            raise RunError(
                f"{self.path} looks for whatever it is asked and has no classes of its own: ask it "
                f"by `vitrail detect IMAGES --weights {self.path} --for 'a sleeve'`"
            )
        if kind == "image_text":
            raise RunError(
                f"{self.path} was trained on images with sentences and has no classes of its own: "
                f"ask it by `vitrail predict {self.path} IMAGES --classes 'a shirt,a bag'`"
            )

    def read_tie(self) -> str | None:
        """Return the digest of the weights and labels of this run, None where none was written.

        Raises RunError.
        """
        tie = read_json(self.labels, dict, remedy=RESTORE).get(TIE)
        if tie is not None and not isinstance(tie, str):
            raise RunError(f"{self.labels} is damaged ({TIE} is not a text): {RESTORE}")
        return tie

    def read_recipe(self) -> dict[str, Any]:
        """Read the recipe in JSON. Raises RunError."""
        recipe = read_json(self.recipe, dict, remedy=RESTORE)
        if not isinstance(recipe.get("model"), dict):
            raise RunError(f"{self.recipe} names no model: restore it, or give another run folder")
        return recipe

    def load_model(self, *, scans: bool = False) -> tuple[nn.Module, dict[str, Any], Labels]:
        """Return the model in eval mode with every tensor of the file, the recipe, the labels.

        Raises RunError when a file is missing or damaged, CheckpointError when weights, labels and
        recipe do not belong together.
        """
        from vitrail import digests
        from vitrail.models import config_from_json
        from vitrail.recipes.build import restored

        recipe, labels = self.read_recipe(), self.read_labels(scans=scans)
        if not self.weights.is_file():
            raise RunError(f"{self.weights} is missing: finish the run with --resume")
        try:
            config = config_from_json(recipe["model"])
        except ConfigError as error:
            raise RunError(f"{self.recipe} is damaged ({error}): restore the folder") from error
        if (config.classes, config.channels) != (len(labels.classes), labels.channels):
            raise CheckpointError(
                f"{self.labels} has {len(labels.classes)} classes and {labels.channels} channels, "
                f"the model {config.classes} and {config.channels}: restore the folder"
            )
        try:
            model, tie = restored(recipe, self.weights), self.read_tie()
        except ConfigError as error:
            raise RunError(f"{self.recipe} is damaged ({error}): restore the folder") from error
        if tie is not None and tie != digests.of_model(model.state_dict(), labels):
            raise CheckpointError(
                f"{self.weights} and {self.labels} are not of one training, or one of them was "
                f"changed: {RESTORE}"
            )
        return model, recipe, labels


def free_name(name: str) -> Path:
    """Return a folder in the working directory that is not there yet: fashion-sample-run-2."""
    number = 1
    while True:
        path = Path(f"{name}-run" + (f"-{number}" if number > 1 else ""))
        if not path.exists():
            return path
        number += 1


def _write(file: Path, content: str | bytes) -> None:
    try:
        files.write(file, content)
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: Exception) -> RunError:
    return RunError(
        f"{file} cannot be written ({files.reason(error)}): free some space, then go on with "
        "--resume"
    )
