"""The model that a run is about: its config, what it costs, and how it is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from vitrail.config import to_json
from vitrail.errors import ConfigError
from vitrail.measure.counts import Counts, counts
from vitrail.models import config_from_json, config_json, config_name, create, family_of
from vitrail.models.trunk.backbone import input_shape
from vitrail.models.trunk.title import short_title
from vitrail.units import count


@dataclass(frozen=True)
class Subject:
    """A model at an image size.

    `model` is the config in JSON, `macs` are per image, `pretrained` the file or Hub reference
    whose weights it starts from.
    """

    name: str
    family: str
    model: dict[str, Any]
    params: int
    macs: int
    pretrained: str | None = None

    @property
    def config(self) -> Any:
        """Return the model's Config."""
        return config_from_json(self.model)

    @property
    def title(self) -> str:
        """Return how people call it: "ResNet 32-64-128, 0.31 M, 28 px"."""
        return short_title(self.family, self.config, self.params, self.image)

    @property
    def image(self) -> tuple[int, int]:
        """Return (height, width)."""
        if "image" not in self.model:  # a series, whose Config has other names
            return self.config.image
        height, width = self.model["image"]
        return height, width

    @property
    def channels(self) -> int:
        """Return the channels of an image, or the features of a series."""
        if "channels" not in self.model:
            return self.config.channels
        return self.model["channels"]

    @property
    def latency_s(self) -> float | None:
        """Return None: the latency is not measured before the model is exported."""
        return None

    def figures(self) -> str:
        """Say what it costs."""
        return f"{count(self.macs)} multiply-adds, {count(self.params)} parameters"


def subject(config: Any, *, pretrained: str | None = None) -> Subject:
    """Count a model and name it by family, sizes, image and whether it is pretrained.

    Raises ConfigError where it cannot be built.
    """
    figures = counted(config)
    if figures is None:
        create(config)  # says what is wrong
        raise ConfigError(f"{family_of(config)} cannot be built at {config.image}")
    return Subject(
        name=called(config, pretrained),
        family=family_of(config),
        model=to_json(config_json(config)),
        params=figures.params,
        macs=figures.macs,
        pretrained=pretrained,
    )


def called(config: Any, pretrained: str | None) -> str:
    """Name a config in a run folder: family, sizes, image, and whether it is pretrained."""
    height, width = config.image
    # A series has steps alone.
    name = f"{config_name(config)}-{height}" + (f"x{width}" if width not in (height, 1) else "")
    return name + ("-pretrained" if pretrained else "")


_COUNTS: dict[str, Counts | None] = {}


def counted(config: Any) -> Counts | None:
    """Count a config at its own image size, remembered; None where it cannot be built."""
    key = str(config_json(config))
    if key not in _COUNTS:
        try:
            with torch.device("meta"):
                model = create(config)
            # What refines points costs by the point, not by the image.
            network = getattr(model, "network", model)
            first, *rest = input_shape(config)
            _COUNTS[key] = counts(network, tuple(rest), first)
        except ConfigError:
            _COUNTS[key] = None
    return _COUNTS[key]
