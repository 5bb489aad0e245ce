"""The names that ECA's authors, and timm, give to the parameters of its networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.models.names import resnet


def _named(module: str) -> Callable[[Any], list]:
    return lambda config: [(f".{module}.conv.", ".gate.conv."), *resnet.TABLES["timm"](config)]


TABLES = {"BangguWu/ECANet": _named("eca"), "timm": _named("se")}
