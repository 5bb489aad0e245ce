"""ONNX Runtime: the run's ONNX file itself, and static quantisation of it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from vitrail.data.labels import Labels
from vitrail.engines import sealed
from vitrail.engines.engine import Answer, Engine, Quantiser
from vitrail.engines.onnx import quiet
from vitrail.measure.session import session

# Sums in int8 as well would spare a ResNet some conversions and cost accuracy everywhere.
TYPES = ("Conv", "MatMul", "Gemm")


class OnnxRuntime(Engine):
    name = "onnxruntime"
    title = "ONNX Runtime"
    file = "model.onnx"
    int8_file = "model.int8.onnx"

    def open(
        self, path: Path, labels: Labels, *, threads: int | None = None, single: bool = False
    ) -> Answer:
        running = session(path, threads=threads)
        names = ["mask" if labels.maps else "probabilities", "logits"]
        names = ["boxes", "scores"] if labels.boxes else names

        def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            answers, logits = running.run(names, {"images": images})
            return np.asarray(answers), np.asarray(logits)

        return answer

    def resizes(self, path: Path) -> bool:
        return isinstance(session(path, threads=1).get_inputs()[0].shape[1], str)

    def convert(self, onnx: Path, labels: Labels, path: Path) -> None:
        """Do nothing: the ONNX file is the one that it runs."""

    def quantiser(self, path: Path, images: np.ndarray, scratch: Path) -> Quantiser:
        return _Static(path, images, scratch)


class _Static(Quantiser):
    """Quantises by `quantize_static`: unsigned activations, signed weights per channel.

    Weights take 7 of their 8 bits. A processor without VNNI adds products in pairs, in 16 bits,
    which full weights overflow: a file that is right here would be wrong on an older machine.
    """

    def __init__(self, path: Path, images: np.ndarray, scratch: Path) -> None:
        import onnx
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self._images, self._ranges = images, scratch / "ranges.json"
        self._float = scratch / "float.onnx"
        self._facts = {
            p.key: p.value for p in onnx.load(path).metadata_props if p.key != sealed.DIGEST
        }
        with quiet():
            quant_pre_process(path, self._float, skip_symbolic_shape=True)
        proto = onnx.load(self._float)
        for at, node in enumerate(proto.graph.node):
            node.name = node.name or f"{node.op_type}.{at}"
        onnx.save(proto, self._float)
        self.units = tuple((n.name,) for n in proto.graph.node if n.op_type in TYPES)

    def write(self, path: Path, keep: Collection[str]) -> None:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_static

        with quiet():
            # The ranges are found once and read from then on.
            quantize_static(
                self._float,
                path,
                _reader(self._images),
                op_types_to_quantize=list(TYPES),
                nodes_to_exclude=list(keep),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibration_cache_path=self._ranges,
            )
        proto = onnx.load(path)
        onnx.helper.set_model_props(proto, self._facts)
        onnx.save(proto, path)


def _reader(images: np.ndarray):
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._rows = iter(images[:, None])

        def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride]
            image = next(self._rows, None)
            return None if image is None else {"images": image}

    return Reader()
