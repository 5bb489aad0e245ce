"""Any number of labels for every image: binary cross entropy, mean average precision, thresholds.

Labels come from a table, with several in a cell or a column for each. On the validation part each
gets the threshold at which its F1 is largest; an answer is the set of labels that reach theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vitrail.data.cache import Pixels
from vitrail.data.labels import Labels
from vitrail.data.opening import open_source
from vitrail.data.source import Kind, Source
from vitrail.engines.served import Agreement, Served, same_answers
from vitrail.errors import DataError
from vitrail.report.multilabel import LabelRow, label_by_label
from vitrail.report.scores import Baseline, Score
from vitrail.tasks import metrics, several
from vitrail.tasks.baselines import Features, LabelBaseline, label_baselines, scores_on
from vitrail.tasks.task import Mistaken, Outputs, Scores
from vitrail.tasks.whole_images import WholeImages

NAME = "mean average precision"


@dataclass(frozen=True)
class MultiLabel(WholeImages):
    """Tells which of several labels an image has: none, one or many.

    vitrail fit photos.csv --task multilabel
    vitrail train --set task=multilabel ...
    """

    several: ClassVar[bool] = True
    maps: ClassVar[bool] = False
    boxes: ClassVar[bool] = False
    takes: ClassVar[Kind] = "images"

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the images behind `spec` with their labels. Raises DataError."""
        return open_source(spec, several=True)

    def check(self, source: Source) -> None:
        """Raise DataError where images have one class each."""
        if not source.several:
            raise DataError(
                f"images of {source.origin} have one class each: leave out --task multilabel, or "
                "give a table with several labels in a cell (a;b) or a column of 0 and 1 for each"
            )

    def scores(self, outputs: Outputs) -> Scores:
        """Return mean average precision as the main score, with F1 at a probability of 0.5."""
        logits, marks = outputs.values, outputs.targets
        main, at_half = several.mean_average_precision(logits, marks), several.found(
            logits > 0, marks
        )  # fmt: skip
        figures = {
            NAME: main, "micro F1 at 0.5": at_half.micro_f1, "macro F1 at 0.5": at_half.macro_f1,
        }  # fmt: skip
        return Scores(main, several.cross_entropy(logits, marks), len(marks), NAME, figures)

    def settled(self, labels: Labels, outputs: Outputs) -> Labels:
        """Return the labels with an honest temperature and a threshold for each of them."""
        logits, marks = outputs.values, outputs.targets
        temperature = metrics.fit_temperature(logits, marks, loss=several.cross_entropy)
        cuts = several.thresholds(logits, marks, temperature)
        return replace(labels, temperature=temperature, several=True, thresholds=cuts)

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return the model between pixels and a probability for each label."""
        return Served(model, labels)

    def agreement(self, ours: Tensor, theirs: np.ndarray, labels: Labels) -> Agreement:
        """Compare logits (B, K): the largest difference, and how many sets of labels differ."""
        return same_answers(ours, theirs, labels)

    def right(self, outputs: Outputs) -> list[bool]:
        """Tell for each image whether the likeliest label is one of its own.

        Of an image without labels all have to be unlikely.
        """
        logits, marks = outputs.values, outputs.targets.bool()
        first = marks.gather(1, logits.argmax(1, keepdim=True)).flatten()
        return torch.where(marks.any(1), first, (logits < 0).all(1)).tolist()

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return mean average precision with its interval, and figures for each label."""
        logits, marks = outputs.values, outputs.targets
        chosen = labels.chosen(labels.probabilities(logits))
        rows = several.per_label(logits, marks, chosen)
        at = several.found(chosen, marks)
        main = several.mean_average_precision(logits, marks)
        spread = several.interval(main, several.Resampled(marks).means(logits.numpy()))
        figures = {
            "micro F1": at.micro_f1, "macro F1": at.macro_f1, "whole sets right": at.exact,
        }  # fmt: skip
        test = Score(
            accuracy=main, low=spread.low, high=spread.high, n=len(marks), name=NAME,
            loss=several.cross_entropy(logits, marks), figures=figures,
        )  # fmt: skip
        told = [
            LabelRow(name, r.n, r.average_precision, r.precision, r.recall, r.f1, cut)
            for name, r, cut in zip(labels.classes, rows, labels.thresholds, strict=True)
        ]
        return {"test": test, "chapters": [label_by_label(told, test)]}

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how each label's frequency and linear models on pixels and features do."""
        marks, resampled = outputs.targets, several.Resampled(outputs.targets)
        ours = several.mean_average_precision(outputs.values, marks)
        spread = resampled.means(outputs.values.numpy())
        told = []
        small = list(label_baselines(train, test))
        if features is not None:
            scores = scores_on(features, train.labels[: len(features.train)])
            small.append(LabelBaseline(f"linear model on {features.name}", scores))
        for one in small:
            value = several.mean_average_precision(torch.from_numpy(one.scores), marks)
            ahead = several.interval(ours - value, spread - resampled.means(one.scores))
            told.append(Baseline(one.name, value, None, len(marks), one.constant, ahead))
        return told

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return the images with the label that the model was most surely wrong about."""
        shares = labels.probabilities(outputs.values)
        chosen, truth = labels.chosen(shares), outputs.targets.bool()
        sure = torch.where(chosen, shares, 1 - shares) * (chosen != truth)
        worst, asked = sure.max(1)
        wrong = (chosen != truth).any(1).nonzero().flatten()
        rows = wrong[worst[wrong].argsort(descending=True)][:most].tolist()
        return [
            Mistaken(
                row, _set(truth[row], labels), _set(chosen[row], labels), float(worst[row]),
                int(asked[row]),
            )
            for row in rows
        ]  # fmt: skip

    def sentence(self, judged: Mapping[str, Any]) -> str:
        """Return mean average precision with its interval."""
        test: Score = judged["test"]
        return (
            f"{NAME} {test.accuracy:.1%} on {test.n} test images (95 % interval {test.low:.1%} "
            f"to {test.high:.1%})"
        )


def _set(marks: Tensor, labels: Labels) -> str:
    names = [name for name, has in zip(labels.classes, marks.tolist(), strict=True) if has]
    return ", ".join(names) or "none"
