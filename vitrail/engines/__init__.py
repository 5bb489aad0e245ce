"""Engines that run an exported model on the CPU, each behind its name."""

from __future__ import annotations

from vitrail.config import nearest
from vitrail.engines.engine import Answer, Engine, Quantiser
from vitrail.errors import ConfigError

__all__ = ["ENGINES", "Answer", "Engine", "Quantiser", "engine"]

ENGINES = ("onnxruntime", "openvino")


def engine(name: str) -> Engine:
    """The engine of that name. Raises ConfigError when it is unknown or not installed."""
    if name not in ENGINES:
        raise ConfigError(f"--engine is {name!r}: {nearest(name, ENGINES)}")
    if name == "openvino":
        from vitrail.engines.openvino import OpenVino

        return OpenVino()
    from vitrail.engines.onnxruntime import OnnxRuntime

    return OnnxRuntime()
