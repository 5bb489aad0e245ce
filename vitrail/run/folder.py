"""The run folder: everything that a training leaves behind, in a folder that explains itself.

    recipe.json          how to train it again, complete
    labels.json          class names, and how images become numbers
    weights.safetensors  the weights, without pickle
    metrics.jsonl        the journal of the training
    result.json          test figures
    model.onnx           uint8 images in, calibrated probabilities out
    model.xml  model.bin the same for OpenVINO, where asked for; with .int8 in front, in integers
    engine.json          which of these files each engine had best answer with, and the figures
    report.html          the report
    README.md            the model card

Whoever writes holds the folder's lock; every file is written whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vitrail.config import parse, to_json
from vitrail.data.labels import Labels
from vitrail.errors import CheckpointError, ConfigError, RunError

if TYPE_CHECKING:
    from torch import nn

LOCK = ".lock"


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
    def engines(self) -> Path:
        return self.path / "engine.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def readme(self) -> Path:
        return self.path / "README.md"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    # ---- making and opening ------------------------------------------------------------

    @classmethod
    def check_free(cls, path: str | os.PathLike) -> None:
        """RunError unless a new run can be made at `path`: it is missing, or an empty folder."""
        path = Path(path)
        if path.is_dir():
            if any(entry.name != LOCK for entry in _entries(path)):
                raise RunError(
                    f"run folder {path} exists and is not empty: go on with it by --resume, or "
                    "name another one with --out"
                )
        elif path.exists() or path.is_symlink():
            raise RunError(f"run folder {path} is a file: name a folder with --out")

    @classmethod
    def create(cls, path: str | os.PathLike, *, resume: bool = False) -> Self:
        """Make the folder, or take up the one that is there, and hold its lock.

        Raises RunError when it exists and is not empty (unless `resume`), when there is none
        to resume, when it cannot be written, and when another process writes to it.
        """
        path = Path(path)
        if resume and not path.exists():
            raise RunError(f"run folder {path} does not exist: start it without --resume")
        if resume and not path.is_dir():
            raise RunError(f"run folder {path} is a file: give the folder of a run")
        if not resume:
            cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(
                f"run folder {path} cannot be made ({error.strerror}): name another with --out"
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            writer = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise RunError(
                f"run folder {path} is in use by another run (process {writer}): wait for it or "
                "stop it, or name another folder with --out"
            ) from error
        except OSError as error:
            os.close(handle)
            raise RunError(
                f"run folder {path} cannot be locked ({error.strerror}): name one on a file "
                "system with locks by --out"
            ) from error
        run = cls(path, lock=handle)
        try:
            # Two runs may have found it free at once; the second then finds the first's files.
            if not resume:
                cls.check_free(path)
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
        except BaseException:
            run.release()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """A finished run, to read. Raises RunError when it is none."""
        run = cls(path)
        if not run.path.is_dir():
            what = "is a file" if run.path.is_file() else "does not exist"
            raise RunError(f"run folder {path} {what}: give the folder that `vitrail fit` made")
        missing = [f.name for f in (run.recipe, run.labels, run.weights) if not f.is_file()]
        if missing:
            begun = run.checkpoints.is_dir() or (run.path / "fit.json").is_file()
            raise RunError(
                f"run folder {path} has no {', '.join(missing)}: "
                + ("finish it with --resume" if begun else "give a folder that `vitrail fit` made")
            )
        return run

    def release(self) -> None:
        """Give up the lock, if it is held."""
        if self._lock is not None:
            handle, self._lock = self._lock, None
            os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # ---- writing -----------------------------------------------------------------------

    def write_text(self, file: Path, text: str) -> None:
        """Write a file of this folder whole or not at all. Raises RunError."""
        # A file name that is no valid text, as in a class or a command, becomes an escape,
        # which JSON reads back as it was.
        self.write_bytes(file, text.encode("utf-8", "backslashreplace"))

    def write_bytes(self, file: Path, data: bytes) -> None:
        """Write a file of this folder whole or not at all. Raises RunError."""
        part = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with open(part, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(part, file)
        except OSError as error:
            raise RunError(
                f"{file} cannot be written ({error.strerror}): free some space, then go on with "
                "--resume"
            ) from error
        finally:
            part.unlink(missing_ok=True)

    def write_json(self, file: Path, value: Any) -> None:
        """Write `value` as JSON, whole or not at all. Raises RunError."""
        self.write_text(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def save_model(self, model: nn.Module, recipe: Mapping[str, Any], labels: Labels) -> None:
        """Write weights, recipe and labels: all that `load_model` needs.

        `recipe` is JSON whose "model" is the model's config.
        """
        from safetensors import SafetensorError

        from vitrail import checkpoint

        try:
            checkpoint.save(self.weights, model.state_dict(), metadata={"config": recipe["model"]})
        except (OSError, SafetensorError) as error:
            # safetensors has an error of its own for a full disk.
            reason = getattr(error, "strerror", None) or error
            raise RunError(
                f"{self.weights} cannot be written ({reason}): free some space, then go on with "
                "--resume"
            ) from error
        self.write_json(self.labels, to_json(labels))
        self.write_json(self.recipe, recipe)

    # ---- reading -----------------------------------------------------------------------

    def read_labels(self) -> Labels:
        """Class names and normalisation. Raises RunError."""
        try:
            return parse(Labels, _read_json(self.labels))
        except ConfigError as error:
            raise RunError(f"{self.labels} is damaged ({error}): restore the folder") from error

    def read_recipe(self) -> dict[str, Any]:
        """The recipe in JSON. Raises RunError."""
        recipe = _read_json(self.recipe)
        if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict):
            raise RunError(f"{self.recipe} names no model: restore it, or give another run folder")
        return recipe

    def load_model(self) -> tuple[nn.Module, dict[str, Any], Labels]:
        """The model in eval mode with every tensor of the file, the recipe, the labels.

        Raises RunError when a file is missing or damaged, CheckpointError when weights and
        recipe do not fit each other.
        """
        from vitrail.models import config_from_json
        from vitrail.recipes.build import restored

        recipe, labels = self.read_recipe(), self.read_labels()
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
            return restored(recipe, self.weights), recipe, labels
        except ConfigError as error:
            raise RunError(f"{self.recipe} is damaged ({error}): restore the folder") from error


def free_name(name: str) -> Path:
    """A folder in the working directory that is not there yet: fashion-sample-run-2."""
    number = 1
    while True:
        path = Path(f"{name}-run" + (f"-{number}" if number > 1 else ""))
        if not path.exists():
            return path
        number += 1


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise RunError(
            f"run folder {path} cannot be read ({error.strerror}): name another with --out"
        ) from error


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{file} is missing: give a folder that `vitrail fit` finished") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is damaged ({error}): restore it or train again") from error
