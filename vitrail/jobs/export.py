"""The files of a finished run for deployment, written and checked."""

from __future__ import annotations

import os
from pathlib import Path

from vitrail.engines.onnx import Exported, export_onnx, synthetic
from vitrail.engines.sealed import open_sealed
from vitrail.engines.triton import write_repository
from vitrail.errors import ConfigError
from vitrail.models import config_json
from vitrail.run.deploy import MAX_DROP, Deployed, export_engine
from vitrail.run.folder import RunFolder
from vitrail.run.hearing import synthetic_waves, write_hearing


def export(
    run: str | os.PathLike,
    *,
    engine: str | None = None,
    int8: bool = False,
    max_drop: float = MAX_DROP,
    data: str | os.PathLike | None = None,
    threads: int | None = None,
) -> Exported | Deployed:
    """Write a finished run's file for deployment, and check it against the weights.

    Without an `engine` that is the ONNX file. With "onnxruntime" or "openvino" it is the files
    of that engine, timed in turns with the ONNX file, with `int8` in integers of 8 bits too:
    these may lose `max_drop` points of the score on held-back images, which come from `data` where
    the run's own are gone. Raises RunError, ExportError, ConfigError and DataError.

    Examples:
        >>> made = vitrail.export("run")
        >>> made.path.name, made.max_logit_difference < 1e-4
        ('model.onnx', True)
    """
    if engine is None:
        if int8:
            raise ConfigError("int8 needs an engine: give engine='onnxruntime' or 'openvino'")
        return export_run(run)
    return export_engine(
        run, engine, int8=int8, max_drop=max_drop, data=data, threads=threads, progress=False
    )


def export_run(path: str | os.PathLike) -> Exported:
    """Write the ONNX file of a finished run again, and of one of sounds that which takes them.

    The user's images may be gone, so the comparison is on seeded smooth and noisy ones.
    Raises RunError and ExportError.
    """
    RunFolder.open(path)
    with RunFolder.create(path, resume=True) as run:
        model, _, labels = run.load_model()
        made = export_onnx(
            model,
            labels,
            run.onnx,
            images=synthetic(labels),
            config=config_json(model.config),
            described="synthetic images",
            progress=True,
        )
        if labels.hearing is not None:
            write_hearing(run, labels, synthetic_waves(labels.hearing))
        return made


def export_triton(run: str | os.PathLike, folder: Path) -> Path:
    """Write a finished run's ONNX file into a model repository for Triton; returns its place.

    The model is called as the run's folder is. Raises RunError, ConfigError and ExportError.
    """
    known = RunFolder.open(run)
    labels = known.read_labels()
    again = f"vitrail export {known.path} --onnx"
    open_sealed(known.onnx, labels, known.read_tie(), again)
    return write_repository(known.onnx, labels, folder, known.path.resolve().name)
