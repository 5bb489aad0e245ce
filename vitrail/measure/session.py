"""ONNX Runtime on the CPU, opened in one way, so that what is timed is what serves."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.errors import RunError
from vitrail.measure.machine import cores
from vitrail.units import shortened

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@cache
def _speaking() -> Any:
    """Return ONNX Runtime's session, with a sentence for what it cannot compute."""
    import onnxruntime

    class Speaking(onnxruntime.InferenceSession):
        file: Path

        def run(self, *given: Any, **more: Any) -> Any:
            try:
                return super().run(*given, **more)
            except Exception as error:
                raise _broken(self.file, error) from error

    return Speaking


def session(path: Path, *, threads: int | None = None) -> InferenceSession:
    """Open an ONNX file in ONNX Runtime on the CPU; it, and its `run`, raise RunError when the file
    is damaged."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.inter_op_num_threads = 1
    # Threads that spin after an answer would take the cores from whoever computes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    try:
        opened = _speaking()(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _broken(path, error) from error
    opened.file = path
    return opened


def _broken(path: Path, error: Exception) -> RunError:
    """Return what to say of an error, of which ONNX Runtime has a dozen kinds without a common
    one."""
    reason = shortened(next(iter(str(error).splitlines()), type(error).__name__), 200)
    return RunError(
        f"{path} cannot be run by ONNX Runtime ({reason}): write it again by `vitrail export "
        f"{path.parent} --onnx`"
    )
