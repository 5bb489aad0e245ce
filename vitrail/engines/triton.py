"""A model repository for Triton Inference Server: a run's ONNX file, as it is, with batching."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from vitrail import files
from vitrail.data.labels import Labels
from vitrail.errors import ConfigError, ExportError
from vitrail.measure.session import session

BATCH = 32
# So long the first image of a batch waits for others.
WAIT_US = 4000


def write_repository(onnx: Path, labels: Labels, folder: Path, name: str) -> Path:
    """Write folder/name/config.pbtxt, labels.txt and 1/model.onnx; returns folder/name.

    Images are uint8 (B, H, W, C), of any size where the file resizes them itself: Triton then
    batches those of one size. Raises ConfigError for a name that Triton would not take or that is
    there already, and ExportError where the folder cannot be written.
    """
    if not re.fullmatch(r"[\w.-]{1,100}", name):
        raise ConfigError(
            f"{name[:120]!r} cannot be the name of a model: use letters, digits, - and _"
        )
    model = folder / name
    if model.exists():
        raise ConfigError(f"{model} is there already: remove it, or name another folder")
    text = config(onnx, labels, name)
    try:
        (model / "1").mkdir(parents=True)
        shutil.copyfile(onnx, model / "1" / "model.onnx")
        files.write(model / "labels.txt", "".join(f"{_line(one)}\n" for one in labels.classes))
        files.write(model / "config.pbtxt", text)
    except OSError as error:
        raise ExportError(
            f"{model} cannot be written ({files.reason(error)}): free some space, or name another "
            "folder"
        ) from error
    return model


def config(onnx: Path, labels: Labels, name: str) -> str:
    """Return Triton's description of an exported file, in protobuf's text form."""
    running = session(onnx, threads=1)
    [given] = running.get_inputs()
    sides = [side if isinstance(side, int) else -1 for side in given.shape[1:]]
    outputs = ",\n".join(
        f'  {{ name: "{out.name}" data_type: TYPE_FP32 dims: [ {len(labels.classes)} ]'
        + (' label_filename: "labels.txt"' if out.name == "probabilities" else "")
        + " }"
        for out in running.get_outputs()
    )
    return (
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {BATCH}\n'
        f'input [\n  {{ name: "{given.name}" data_type: TYPE_UINT8 '
        f"dims: [ {', '.join(map(str, sides))} ] }}\n]\n"
        f"output [\n{outputs}\n]\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {WAIT_US} }}\n"
        "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    )


def _line(text: str) -> str:
    return " ".join(text.split())
