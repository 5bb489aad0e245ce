"""One class for every image: cross entropy, accuracy, calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.opening import open_source
from vitrail.data.source import NOUNS, Kind, Source
from vitrail.engines.served import Agreement, Served, same_answers
from vitrail.errors import DataError
from vitrail.report.ahead import paired, paired_balanced
from vitrail.report.scores import Baseline, CalibrationBin, CalibrationFacts, ClassRow, RefusalFacts
from vitrail.report.scores import Score as TestScore
from vitrail.tasks import metrics, unknowns
from vitrail.tasks.baselines import Features, baselines, linear_on
from vitrail.tasks.task import Mistaken, Outputs, Scores
from vitrail.tasks.whole_images import WholeImages

# The largest class over the mean one from which on accuracy says little.
UNEVEN = 1.5


@dataclass(frozen=True)
class Classification(WholeImages):
    """Tells one of several classes.

    `metric` ranks candidates: "accuracy", "balanced" for the mean recall of the classes, or "auto"
    for the latter where the classes of the validation split are uneven.

        vitrail train --set task.metric=balanced ...
    """

    several: ClassVar[bool] = False
    maps: ClassVar[bool] = False
    boxes: ClassVar[bool] = False
    takes: ClassVar[Kind] = "images"

    metric: Literal["auto", "accuracy", "balanced"] = "auto"

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the images behind `spec` with their classes. Raises DataError."""
        return open_source(spec)

    def check(self, source: Source) -> None:
        """Raise DataError where images have several labels."""
        if getattr(source, "several", False):
            raise DataError(
                f"images of {source.origin} have several labels: add --task multilabel to learn "
                "them all, or give one label an image"
            )

    def scores(self, outputs: Outputs) -> Scores:
        """Return accuracy or balanced accuracy as the main score, with both beside it."""
        logits, labels = outputs.values, outputs.targets
        loss = nn.functional.cross_entropy(logits, labels).item()
        plain = (logits.argmax(1) == labels).float().mean().item()
        balanced = metrics.balanced_accuracy(logits, labels)
        figures = {"accuracy": plain, "balanced accuracy": balanced}
        name = "balanced accuracy" if self._balanced(labels, logits.shape[1]) else "accuracy"
        return Scores(figures[name], loss, len(labels), name, figures)

    def _balanced(self, labels: Tensor, classes: int) -> bool:
        if self.metric != "auto":
            return self.metric == "balanced"
        counts = labels.bincount(minlength=classes).double()
        return bool(counts.max() > UNEVEN * counts.mean())

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels with the temperature that makes the probabilities honest, and the
        threshold below which an answer is "none of these"."""
        logits, truth = outputs.values, outputs.targets
        temperature = metrics.fit_temperature(logits, truth)
        cut = unknowns.threshold(logits, temperature)
        return replace(labels, temperature=temperature, threshold=cut)

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return the model between pixels and probabilities."""
        return Served(model, labels)

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Compare logits (B, K): the largest difference, and how many classes differ."""
        return same_answers(ours, theirs, labels)

    def right(self, outputs: Outputs) -> list[bool]:
        """Tell for each image whether its class is the likeliest."""
        return (outputs.values.argmax(1) == outputs.targets).tolist()

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return test accuracy, figures per class, confusion and calibration."""
        logits, truth = outputs.values, outputs.targets
        rows = zip(labels.classes, metrics.per_class(logits, truth), strict=True)
        before = metrics.calibration(logits, truth)
        after = metrics.calibration(logits, truth, labels.temperature)
        cut = labels.threshold
        return {
            "test": _score(logits, truth),
            "per_class": [ClassRow(name, r.n, r.precision, r.recall, r.f1) for name, r in rows],
            "confusion": metrics.confusion(logits, truth).tolist(),
            "calibration": CalibrationFacts(
                labels.temperature, before.error, after.error, _bins(after), _bins(before)
            ),
            "refusal": None if cut is None else _refusal(logits, labels.temperature, cut),
        }

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how a constant, linear and kernel models on small pixels and on features do."""
        fitted, truth = baselines(train, labels.classes), outputs.targets.numpy()
        asked = fitted.features(test.take(np.arange(len(test))))
        told = [(one.name, one.constant, one.predict(asked)) for one in fitted.models]
        known = train.labels[: len(features.train)] if features else train.labels[:0]
        if features is not None and len(np.unique(known)) > 1:
            told.append((f"linear model on {features.name}", False, linear_on(features, known)))
        ours = self.right(outputs)
        return [baseline(name, constant, said, truth, ours) for name, constant, said in told]

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return the wrong answers that the model was surest of."""
        shares = (outputs.values / labels.temperature).softmax(1)
        sure, guesses = shares.max(1)
        wrong = (guesses != outputs.targets).nonzero().flatten()
        worst = wrong[sure[wrong].argsort(descending=True)][:most].tolist()
        return [
            Mistaken(
                row,
                labels.classes[int(outputs.targets[row])],
                labels.classes[int(guesses[row])],
                float(sure[row]),
                int(guesses[row]),
            )
            for row in worst
        ]

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return test accuracy with its interval."""
        test: TestScore = judged["test"]
        return (
            f"{test.accuracy:.1%} of {test.n} test {NOUNS[self.takes][1]} right (95 % interval "
            f"{test.low:.1%} to {test.high:.1%})"
        )


def baseline(
    name: str, constant: bool, answers: np.ndarray, truth: np.ndarray, ours: Sequence[bool]
) -> Baseline:
    """Return how good the answers (N,) of a small model are, beside ours, right or wrong."""
    right = answers == truth
    recalls = [right[truth == label].mean() for label in np.unique(truth)]
    return Baseline(
        name=name,
        accuracy=float(right.mean()),
        balanced=float(np.mean(recalls)),
        n=len(truth),
        constant=constant,
        ahead=paired(ours, right.tolist()),
        ahead_balanced=paired_balanced(ours, right.tolist(), truth.tolist()),
    )


def _score(logits: Tensor, labels: Tensor) -> TestScore:
    right = metrics.accuracy(logits, labels)
    return TestScore(
        accuracy=right.value,
        low=right.low,
        high=right.high,
        n=right.n,
        balanced=metrics.balanced_accuracy(logits, labels),
        top5=metrics.accuracy(logits, labels, top=5).value if logits.shape[1] > 5 else None,
        loss=metrics.cross_entropy(logits, labels),
    )


def _refusal(logits: Tensor, temperature: float, cut: float) -> RefusalFacts:
    below = unknowns.surest(logits, temperature) < cut
    return RefusalFacts(cut, float(below.double().mean()), len(below))


def _bins(found: metrics.Calibration) -> list[CalibrationBin]:
    return [CalibrationBin(b.low, b.high, b.n, b.confidence, b.accuracy) for b in found.bins]
