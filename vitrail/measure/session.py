"""ONNX Runtime on the CPU, opened in one way, so that what is timed is what serves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.errors import RunError
from vitrail.measure.machine import cores

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def session(path: Path, *, threads: int | None = None) -> InferenceSession:
    """Open an ONNX file in ONNX Runtime on the CPU. Raises RunError when it is damaged."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    # Threads that spin after an answer would take the cores from whoever computes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime has a dozen kinds of errors without a common one.
        raise RunError(
            f"{path} cannot be run by ONNX Runtime: write it again by `vitrail export "
            f"{path.parent} --onnx`"
        ) from error
