"""ONNX: uint8 images in, calibrated probabilities out, accepted only if it computes the same.

The graph divides, normalises and brings channels forward itself, so whoever runs it needs no
statistics. Resizing stays outside: ONNX Runtime's antialiased Resize departs from torch's by
up to 20 of 255 when detailed images shrink, so files are to be decoded at the model's size
(`vitrail predict` does).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail import __version__
from vitrail.errors import ExportError, RunError
from vitrail.layers.fold import deploy
from vitrail.run_folder import Labels, RunFolder

TOLERANCE = 1e-4
# So many held-back images are compared, or all where there are fewer.
ENOUGH = 256


@dataclass(frozen=True)
class Exported:
    """An accepted file: its size, and the comparison on `n` images that it passed."""

    path: Path
    size_bytes: int
    n: int
    max_logit_difference: float


class Served(nn.Module):
    """The deployed model between bytes and probabilities.

    uint8 (B, H, W, C) to probabilities and logits, each (B, classes).
    """

    def __init__(self, model: nn.Module, labels: Labels) -> None:
        super().__init__()
        self.model = deploy(model)
        self.temperature = labels.temperature
        mean, std = torch.tensor(labels.mean), torch.tensor(labels.std)
        self.register_buffer("factor", (1 / (255 * std)).view(1, -1, 1, 1))
        self.register_buffer("offset", (-mean / std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.permute(0, 3, 1, 2).float() * self.factor + self.offset
        logits = self.model(x)
        return (logits / self.temperature).softmax(-1), logits


def export_onnx(
    model: nn.Module, labels: Labels, path: str | os.PathLike, *, images: np.ndarray
) -> Exported:
    """Write the model as ONNX and compare it with the original on `images`.

    `images` are uint8 (N, H, W, C), held back from training, at the model's size. Raises
    ExportError, and removes the file, when torch cannot export the model, when top-1 differs
    for any image, or a logit by 1e-4 or more.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.onnx")
    try:
        _write(Served(model.eval(), labels).eval(), labels, _config(model), part)
        largest = _compare(model, labels, part, images)
        os.replace(part, path)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}): free some space") from error
    finally:
        part.unlink(missing_ok=True)
    return Exported(path, path.stat().st_size, len(images), largest)


def _config(model: nn.Module) -> dict[str, Any]:
    from vitrail.models import config_json

    return config_json(model.config)


def _write(served: Served, labels: Labels, config: dict[str, Any], path: Path) -> None:
    import onnx

    height, width = labels.image
    # Two images: with one, torch would take the batch for a constant.
    example = torch.zeros(2, height, width, labels.channels, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                served,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["probabilities", "logits"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                verbose=False,
            )
    except Exception as error:
        # The exporter raises whatever an operator made it stumble over.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"the model cannot be exported to ONNX: {first}") from error
    proto = program.model_proto  # pyright: ignore[reportOptionalMemberAccess]
    facts = {
        "classes": list(labels.classes),
        "image": list(labels.image),
        "channels": labels.channels,
        "mean": list(labels.mean),
        "std": list(labels.std),
        "temperature": labels.temperature,
        "config": config,
        "resize": "outside",
        "vitrail": __version__,
    }
    onnx.helper.set_model_props(
        proto, {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    )
    onnx.save(proto, path)


def _compare(model: nn.Module, labels: Labels, path: Path, images: np.ndarray) -> float:
    """The largest difference of a logit over all images. Raises ExportError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    largest, differing = 0.0, 0
    for start in range(0, len(images), 64):
        batch = images[start : start + 64]
        with torch.inference_mode():
            expected = model(labels.normalised(batch)).float().numpy()
        (got,) = session.run(["logits"], {"images": batch})
        largest = max(largest, float(np.abs(got - expected).max()))
        differing += int((got.argmax(1) != expected.argmax(1)).sum())
    if differing or not largest < TOLERANCE:
        raise ExportError(
            f"the exported file is not the model: of {len(images)} images {differing} get another "
            f"class, and logits differ by up to {largest:.1e} (allowed: 0, and {TOLERANCE:.0e})"
        )
    return largest


def export_run(path: str | os.PathLike) -> Exported:
    """Write the ONNX file of a finished run again.

    The user's images may be gone, so the comparison is on seeded smooth and noisy ones.
    Raises RunError and ExportError.
    """
    RunFolder.open(path)
    with RunFolder.create(path, resume=True) as run:
        model, _, labels = run.load_model()
        return export_onnx(model, labels, run.onnx, images=synthetic(labels))


def synthetic(labels: Labels) -> np.ndarray:
    """Images to compare on where no real ones are at hand: uint8 (256, H, W, C)."""
    random = np.random.default_rng(0)
    height, width = labels.image
    coarse = torch.from_numpy(random.random((ENOUGH, labels.channels, 7, 7), np.float32))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic").numpy()
    noise = random.normal(0, 0.05, smooth.shape)
    return ((smooth + noise).clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


@contextlib.contextmanager
def _quiet():
    """The exporter writes about its own affairs to standard output and to the log."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
