"""How good a model is, as plain values: its score, baselines, classes, calibration and mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitrail.config import to_json
from vitrail.report.ahead import Interval


@dataclass(frozen=True)
class Score:
    """Accuracy on the test split, in [0, 1], with its 95 % interval [low, high] over n images.

    `balanced` is the mean recall over classes, `top5` the share whose class is among the first
    five answers, `loss` the cross entropy in nats. Where another figure than accuracy says how good
    a model is, `name` is that figure's, and `accuracy` holds it; `figures` are further shares.
    """

    accuracy: float
    low: float
    high: float
    n: int
    balanced: float | None = None
    top5: float | None = None
    loss: float | None = None
    name: str = "accuracy"
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Return whether it is a share of right answers."""
        return self.name == "accuracy"

    def to_json(self) -> dict[str, Any]:
        """Return the fields for result.json, where the main figure stands under its own name."""
        return under_its_name(self, self.name)


@dataclass(frozen=True)
class Baseline:
    """A trivial or small model on the same n test images: its accuracies in [0, 1].

    `name` continues a sentence: "always 'healthy'" for a constant answer (`constant` is then
    true), "linear model on 16x16 pixels", "kernel model on pixels", "linear model on features".
    `ahead` is how much more accurate the run's model is, `ahead_balanced` the same for balanced
    accuracy, as `report.ahead.paired` and `paired_balanced` give them from both models' answers;
    without them the page falls back on the shares alone, whose interval is wider.
    """

    name: str
    accuracy: float
    balanced: float | None
    n: int
    constant: bool = False
    ahead: Interval | None = None
    ahead_balanced: Interval | None = None


@dataclass(frozen=True)
class ClassRow:
    """One class of the test split: its n images, and precision, recall and F1 in [0, 1]."""

    name: str
    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CalibrationBin:
    """Test images whose confidence lies in [low, high): their number n, mean confidence and
    accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CalibrationFacts:
    """Expected calibration error in [0, 1], before and after dividing logits by the temperature.

    `bins` are those with the temperature, `bins_before` those without.
    """

    temperature: float
    ece_before: float
    ece_after: float
    bins: Sequence[CalibrationBin]
    bins_before: Sequence[CalibrationBin] = ()


@dataclass(frozen=True)
class RefusalFacts:
    """Answers below the probability `threshold` are "none of these".

    Of n test images the share `known` is told so, although they are of known classes; of images of
    other classes about the share `unknown` is, None where that was not measured.
    """

    threshold: float
    known: float
    n: int
    unknown: float | None = None


@dataclass(frozen=True)
class Mistake:
    """A test image that the model got wrong, as PNG, and another PNG of what it looked at.

    `shown` says what is bright on the second one.
    """

    png: bytes
    overlay: bytes | None
    truth: str
    guess: str
    confidence: float
    key: str
    shown: str = ""


def under_its_name(value: Score | Baseline, name: str) -> dict[str, Any]:
    """Return a score's fields in JSON, with the main figure under the `name` that it has."""
    fields = to_json(value)
    if name != "accuracy":
        return {name.replace(" ", "_"): fields.pop("accuracy"), **fields}
    implied = ("name", "figures") if isinstance(value, Score) else ()
    return {key: one for key, one in fields.items() if key not in implied}
