"""Video files that a run is asked about, in the views and at the size of the run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.data.clips import rows_of, videos_below, view_start
from vitrail.data.decode import BrokenImage, resize
from vitrail.data.labels import Labels
from vitrail.data.source import Sampling
from vitrail.data.videos import SUFFIXES, BrokenClip, frames_of
from vitrail.errors import ConfigError, DataError

# The name of a clip, and what it is read from.
Asked = tuple[str, "Path | np.ndarray"]


def asked(given: Any) -> list[Asked]:
    """Return the clips that are asked about: paths of videos or of folders of them, or arrays of
    frames uint8 (n, h, w, 3). Raises ConfigError, and DataError for a folder without videos."""
    several = isinstance(given, Iterable) and not isinstance(given, (str, os.PathLike, np.ndarray))
    found: list[Asked] = []
    for number, one in enumerate(given if several else [given], 1):
        if isinstance(one, np.ndarray) and one.ndim == 4 and one.dtype == np.uint8:
            found.append((f"clip {number}", one))
        elif isinstance(one, (str, os.PathLike)) and Path(one).is_dir():
            below = videos_below(Path(one), SUFFIXES)
            if not below:
                raise DataError(f"folder {os.fspath(one)} has no video files: name files")
            found += [(str(path), path) for path in below]
        elif isinstance(one, (str, os.PathLike)):
            found.append((os.fspath(one), Path(one)))
        else:
            raise ConfigError(
                f"clip {number} is of type {type(one).__name__}: give paths of videos, or frames "
                "as uint8 (n, h, w, 3)"
            )
    return found


def views(given: Path | np.ndarray, labels: Labels) -> np.ndarray | str:
    """Return the views of a clip, uint8 (views, T, H, W, 3), or why there are none."""
    try:
        frames = (
            resize(given, labels.image)
            if isinstance(given, np.ndarray)
            else frames_of(given, labels.image)
        )
    except (BrokenClip, BrokenImage) as error:
        return error.reason
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if not len(frames):
        return "has no frame"
    sampling = Sampling(labels.frames, labels.stride, labels.views)
    starts = (view_start(len(frames), sampling, v, labels.views) for v in range(labels.views))
    return np.stack([frames[rows_of(len(frames), sampling, start)] for start in starts])
