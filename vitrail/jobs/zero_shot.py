"""Classes asked for in words: a run of images, or clips, and sentences as one that answers.

Each class is embedded once, in several sentences; an image or clip is of the class with the
largest cosine, and probabilities are those that the temperature of the training gives.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from vitrail.errors import ConfigError
from vitrail.jobs.predict import Predictor
from vitrail.run.folder import RunFolder


def classes_in(text: str) -> tuple[str, ...]:
    """Return the classes of "a shirt,a bag". Raises ConfigError for fewer than two, or one twice.

    Examples:
        >>> classes_in("a shirt, a bag")
        ('a shirt', 'a bag')
    """
    found = tuple(" ".join(one.split()) for one in text.split(",") if one.strip())
    if len(found) < 2 or len(set(found)) < len(found):
        raise ConfigError(
            f"--classes is {text!r}: give at least two different classes, as 'a shirt,a bag'"
        )
    return found


class ZeroShot(Predictor):
    """A run of images, or clips, and sentences that tells classes by their names.

    `prompts` are sentences with `{}` where the class stands, by default those of the run. Raises
    RunError for a run of another kind, and ConfigError.
    """

    def __init__(
        self,
        run: str | os.PathLike,
        classes: Sequence[str],
        *,
        prompts: Sequence[str] = (),
        threshold: float | None = None,
    ) -> None:
        import torch

        from vitrail.run.in_words import opened
        from vitrail.tasks.pairing import in_words

        self._run = RunFolder.open(run)
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is {threshold}: give a probability from 0 to 1")
        if lacking := [one for one in prompts if "{}" not in one]:
            raise ConfigError(
                f"prompt {lacking[0]!r} has no {{}} where the class stands: write it as 'a photo "
                "of a {}'"
            )
        found = opened(self._run, tuple(classes))
        self.labels = found.labels
        self.threshold, self.setting, self._told = threshold, None, ""
        asked = in_words(classes, prompts or found.prompts, found.said)

        def answer(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                cosines = found.seen(self.labels.normalised(images)) @ asked.mT
                return (found.scale * cosines).softmax(-1).numpy()

        self._answer = answer
