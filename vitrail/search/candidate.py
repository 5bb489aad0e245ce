"""A candidate: a model's config at an image size, with what it costs on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vitrail.config import to_json
from vitrail.models import config_json, family_of
from vitrail.run.budget import Budget
from vitrail.run.subject import Subject, called
from vitrail.training.device import Precision
from vitrail.units import seconds


@dataclass(frozen=True)
class Candidate(Subject):
    """A model that may win.

    `latency_s` is the time of the model alone for one image (None: not measured), `rate` are
    training images per second in `precision`.
    """

    latency_s: float | None = None  # pyright: ignore[reportIncompatibleMethodOverride]
    rate: float | None = None
    precision: Precision = "32-true"

    def with_resize_s(self, budget: Budget) -> float | None:
        """Return the latency for a picture of the budget, its resize included."""
        if self.latency_s is None:
            return None
        return self.latency_s + budget.resize_s(self.image, self.channels)

    def figures(self) -> str:
        """Say what it costs."""
        wait = "" if self.latency_s is None else f"latency {seconds(self.latency_s)}, "
        return wait + super().figures()


def candidate(config: Any, *, params: int, macs: int, pretrained: str | None = None) -> Candidate:
    """Return the candidate of a config; its name says family, sizes, image, whether pretrained."""
    return Candidate(
        name=called(config, pretrained),
        family=family_of(config),
        model=to_json(config_json(config)),
        params=params,
        macs=macs,
        pretrained=pretrained,
    )
