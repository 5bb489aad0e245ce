"""OpenVINO: an IR made from the ONNX file, quantised by NNCF.

OpenVINO passes over the `antialias` of Resize and departs by up to 146 of 255 when an image
shrinks, so its files take images of the model's size only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.labels import Labels
from vitrail.engines.engine import Answer, Engine, Quantiser
from vitrail.engines.front import fixed_size
from vitrail.engines.onnx import quiet
from vitrail.errors import ConfigError, ExportError, RunError, extra
from vitrail.measure.machine import cores

WEIGHTED = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"}
# These are not nodes that compute.
PASSIVE = {"Constant", "Parameter", "Result", "Convert"}


def package(name: str) -> Any:
    """Import the module `name`. Raises ConfigError when it is not installed."""
    # OpenVINO and NNCF report their use to their makers, from the import on; without this package,
    # which they can do without, they do not.
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    try:
        with quiet():
            return import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"the engine openvino needs a package that is not installed: {extra('openvino')}"
        ) from error


class OpenVino(Engine):
    name = "openvino"
    title = "OpenVINO"
    file = "model.xml"
    int8_file = "model.int8.xml"

    def __init__(self) -> None:
        self._ov = package("openvino")

    def open(
        self, path: Path, labels: Labels, *, threads: int | None = None, single: bool = False
    ) -> Answer:
        try:
            core = self._ov.Core()
            model = core.read_model(path)
            model.reshape([1 if single else -1, *labels.image, labels.channels])
            settings = {
                "INFERENCE_NUM_THREADS": threads or cores(),
                "INFERENCE_PRECISION_HINT": "f32",
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            }
            request = core.compile_model(model, "CPU", settings).create_infer_request()
        except Exception as error:
            # OpenVINO raises RuntimeError and kinds of its own for whatever a file lacks.
            raise RunError(
                f"{path} cannot be run by OpenVINO: write it again by `vitrail export "
                f"{path.parent} --engine openvino`"
            ) from error
        # A request answers one at a time; it uses all threads anyway.
        lock = threading.Lock()

        def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with lock:
                found = request.infer([images], share_inputs=True)
                return np.array(found["probabilities"]), np.array(found["logits"])

        return answer

    def convert(self, onnx: Path, labels: Labels, path: Path) -> None:
        proto = fixed_size(onnx, labels)
        try:
            model = self._ov.Core().read_model(proto.SerializeToString())
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"OpenVINO cannot read {onnx}: {first}") from error
        self._ov.save_model(model, path, compress_to_fp16=False)

    def quantiser(self, path: Path, images: np.ndarray, scratch: Path) -> Quantiser:
        return _Nncf(self._ov, path, images)

    def files(self, path: Path) -> tuple[Path, ...]:
        return path.with_suffix(".bin"), path


class _Nncf(Quantiser):
    """Post-training quantisation with smoothing for transformers and corrected biases."""

    def __init__(self, ov: Any, path: Path, images: np.ndarray) -> None:
        self._ov, self._nncf = ov, package("nncf")
        self._path, self._images = path, images
        nodes = [n for n in self._read().get_ordered_ops() if n.get_type_name() not in PASSIVE]
        units: list[list[str]] = [[]]
        for node in nodes:
            if node.get_type_name() in WEIGHTED and any(units):
                units.append([])
            units[-1].append(node.get_friendly_name())
        self.units = tuple(map(tuple, units))
        # A classifier ends in one softmax; all others are attention.
        self._attends = sum(n.get_type_name() == "Softmax" for n in nodes) > 1

    def write(self, path: Path, keep: Collection[str]) -> None:
        nncf = self._nncf
        with quiet():
            model = nncf.quantize(
                self._read(),
                nncf.Dataset(list(self._images[:, None])),
                subset_size=len(self._images),
                model_type=nncf.ModelType.TRANSFORMER if self._attends else None,
                ignored_scope=nncf.IgnoredScope(names=sorted(keep), validate=False),
            )
        self._ov.save_model(model, path, compress_to_fp16=False)

    def _read(self) -> Any:
        return self._ov.Core().read_model(self._path)
