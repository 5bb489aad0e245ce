"""What a finished run says of an image, a clip, a series, a sound or a scan."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from vitrail.jobs import boxes, masks

NONE = "none of these"
NO_LABEL = "none"


@dataclass(frozen=True)
class Prediction:
    """The classes of an image with their probabilities, most likely first; or why there are none.

    `path` is the file's, or says which image it was. Below the `threshold`, where there is one,
    the likeliest class is not taken for an answer. In a run of several labels per image `chosen`
    has all that reach their thresholds, most likely first, possibly none; else it is None.
    `unfamiliar` says whether the image looks unlike all that the run learned from, so that no
    probability means anything; None where the run cannot know. `setting` is that of the run's dial
    which answered, where it was turned, and `seconds` what the answer took, where there was a
    deadline. Of a run of masks `mask` is uint8 (h, w), the class of each pixel, `ranked` has the
    share of pixels of each class, and `written` the files, where there are some. Of a run of
    boxes `boxes` has those above the threshold, the surest first, and `ranked` nothing; of a run
    of lidar scans `points` is uint8 (N,), the class of each point of the file.
    """

    path: str
    ranked: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    threshold: float | None = None
    chosen: tuple[tuple[str, float], ...] | None = None
    unfamiliar: bool | None = None
    setting: str | None = None
    seconds: float | None = None
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)
    written: masks.Written | boxes.Written | None = None
    boxes: tuple[boxes.Box, ...] | None = None
    points: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def none_of_these(self) -> bool:
        """Tell whether even the likeliest class is below the threshold, or no label is chosen."""
        if self.chosen is not None:
            return not self.chosen
        return bool(self.ranked) and self.ranked[0][1] < (self.threshold or 0)

    @property
    def answer(self) -> str | None:
        """Return the likeliest class, "none of these" below the threshold, None after an error.

        Of several labels it is their names, "cat; dog", of boxes their numbers, "2 cat; 1 dog", or
        "none".
        """
        if self.boxes is not None:
            return boxes.counts(self.boxes) or NO_LABEL
        if not self.ranked:
            return None
        if self.chosen is not None:
            return "; ".join(name for name, _ in self.chosen) or NO_LABEL
        return NONE if self.none_of_these else self.ranked[0][0]
