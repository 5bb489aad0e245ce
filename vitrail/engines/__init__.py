"""Engines that run an exported model on the CPU, each behind its name."""

from __future__ import annotations

from vitrail.config import nearest
from vitrail.engines.engine import Answer, Engine, Quantiser
from vitrail.errors import ConfigError

__all__ = ["ENGINES", "Answer", "Engine", "Quantiser", "engine", "rivals"]

ENGINES = ("onnxruntime", "openvino")


def engine(name: str) -> Engine:
    """Return the engine of that name. Raises ConfigError when it is unknown or not installed."""
    if name not in ENGINES:
        raise ConfigError(f"--engine is {name!r}: {nearest(name, ENGINES)}")
    if name == "openvino":
        from vitrail.engines.openvino import OpenVino

        return OpenVino()
    from vitrail.engines.onnxruntime import OnnxRuntime

    return OnnxRuntime()


def rivals(name: str) -> tuple[str, ...]:
    """Return the engines that take turns where `name` is asked for, ONNX Runtime first.

    With "auto" these are all that are installed. Raises ConfigError like `engine`.
    """
    if name not in (*ENGINES, "auto"):
        raise ConfigError(f"--engine is {name!r}: {nearest(name, (*ENGINES, 'auto'))}")
    if name != "auto":
        engine(name)
        return tuple(dict.fromkeys((ENGINES[0], name)))
    return installed()


def installed() -> tuple[str, ...]:
    """Return the engines that can be used here, ONNX Runtime first."""
    return tuple(one for one in ENGINES if _installed(one))


def _installed(name: str) -> bool:
    try:
        engine(name)
    except ConfigError:
        return False
    return True
