"""ONNX files that share one file of weights, for models that differ in little but their shapes.

A tensor that several files have is stored once: ONNX lets a tensor lie in another file beside the
model, at an offset. Small ones stay inside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitrail.engines import sealed

WEIGHTS = "weights.bin"
# Smaller tensors are not worth a reference, and constants of shapes must stay inside.
LEAST_BYTES = 1024
# Tensors begin at multiples of what any processor loads at once.
ALIGNED = 64


def share(files: Sequence[Path], folder: Path) -> list[Path]:
    """Write exported files again into `folder`, where their large tensors lie in one file.

    Returns the new files, the weights last. Raises OSError.
    """
    store = _Store()
    made = []
    for file in files:
        import onnx

        proto = onnx.load(file)
        for tensor in proto.graph.initializer:
            store.put(tensor)
        kept = [entry for entry in proto.metadata_props if entry.key != sealed.DIGEST]
        proto.ClearField("metadata_props")
        proto.metadata_props.extend(kept)
        sealed.write(folder / file.name, proto.SerializeToString())
        made.append(folder / file.name)
    (folder / WEIGHTS).write_bytes(store.data)
    return [*made, folder / WEIGHTS]


class _Store:
    """The bytes of tensors, each once, and where it is known by its digest where it begins."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._places: dict[bytes, int] = {}

    def put(self, tensor: Any) -> None:
        """Move the values of a tensor here, if they are worth it."""
        from onnx import TensorProto, external_data_helper, numpy_helper

        values = numpy_helper.to_array(tensor).tobytes()
        if len(values) < LEAST_BYTES:
            return
        key = hashlib.sha256(values).digest()
        if key not in self._places:
            self.data += bytes(-len(self.data) % ALIGNED)
            self._places[key] = len(self.data)
            self.data += values
        for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)
        tensor.raw_data = values
        external_data_helper.set_external_data(
            tensor, WEIGHTS, offset=self._places[key], length=len(values)
        )
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
