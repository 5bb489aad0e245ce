"""A candidate: a model's config at an image size, with what it costs on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitrail.config import to_json
from vitrail.models import config_from_json, config_json, config_name, family_of
from vitrail.train.device import Precision
from vitrail.units import count, seconds


@dataclass(frozen=True)
class Candidate:
    """A model that may win.

    `model` is the config in JSON, `macs` are per image, `latency_s` is the median of the
    folded model in torch at batch 1 (None: not measured), `rate` are training images per
    second in `precision`, `pretrained` the file or Hub reference whose weights it starts from.
    """

    name: str
    family: str
    model: dict[str, Any]
    params: int
    macs: int
    latency_s: float | None = None
    rate: float | None = None
    pretrained: str | None = None
    precision: Precision = "32-true"

    @property
    def config(self) -> Any:
        """The model's Config."""
        return config_from_json(self.model)

    @property
    def image(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.model["image"]
        return height, width

    def figures(self) -> str:
        """What it costs, in words."""
        parts = [f"{count(self.macs)} multiply-adds", f"{count(self.params)} parameters"]
        if self.latency_s is not None:
            parts.insert(0, f"latency {seconds(self.latency_s)}")
        return ", ".join(parts)


def candidate(config: Any, *, params: int, macs: int, pretrained: str | None = None) -> Candidate:
    """The candidate of a config; its name says family, sizes, image and whether pretrained."""
    height, width = config.image
    name = f"{config_name(config)}-{height}" + (f"x{width}" if width != height else "")
    return Candidate(
        name=name + ("-pretrained" if pretrained else ""),
        family=family_of(config),
        model=to_json(config_json(config)),
        params=params,
        macs=macs,
        pretrained=pretrained,
    )
