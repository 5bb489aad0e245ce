"""The ONNX file of a finished run, written again and checked."""

from __future__ import annotations

import os

from vitrail.engines.onnx import Exported, export_onnx, synthetic
from vitrail.models import config_json
from vitrail.run.folder import RunFolder


def export_run(path: str | os.PathLike) -> Exported:
    """Write the ONNX file of a finished run again.

    The user's images may be gone, so the comparison is on seeded smooth and noisy ones.
    Raises RunError and ExportError.
    """
    RunFolder.open(path)
    with RunFolder.create(path, resume=True) as run:
        model, _, labels = run.load_model()
        return export_onnx(
            model,
            labels,
            run.onnx,
            images=synthetic(labels),
            config=config_json(model.config),
            described="synthetic images",
            progress=True,
        )
