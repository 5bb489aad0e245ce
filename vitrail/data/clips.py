"""Video files as a source: a folder of class folders, or a table of path,label.

clips/jump/a.mp4  clips/run/b.mkv          a folder for each class
clips/train/jump/a.mp4  clips/test/...     the same with parts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from vitrail.data.opening import open_source
from vitrail.data.source import Sampling, Source
from vitrail.data.tree import walked
from vitrail.data.videos import require_av
from vitrail.errors import DataError


def open_clips(spec: str | Path, sampling: Sampling) -> Source:
    """List the clips behind `spec`, of which frames are shown as `sampling` says.

    Raises DataError, also where PyAV is missing.
    """
    source = open_source(spec)
    if source.pixels is not None:
        raise DataError(f"{spec} has images, not clips: give a folder of video files by class")
    require_av()
    return replace(source, clips=sampling)


def rows_of(frames: int, sampling: Sampling, first: int) -> np.ndarray:
    """Return which frames of a clip are shown, int64 (T,), from `first` on; a clip that is too
    short shows its last frame again."""
    wanted = first + sampling.stride * np.arange(sampling.frames)
    return np.minimum(wanted, frames - 1)


def last_start(frames: int, sampling: Sampling) -> int:
    """Return the last frame of a clip from which on all that is shown is in it."""
    return max(0, frames - sampling.span)


def view_start(frames: int, sampling: Sampling, view: int, views: int) -> int:
    """Return where a view of a clip begins: the middle, or one of several evenly from its whole
    length, as published tests take them."""
    last = last_start(frames, sampling)
    return last // 2 if views == 1 else round(view * last / (views - 1))


def videos_below(folder: Path, suffixes: Sequence[str], most: int | None = None) -> list[Path]:
    """Return the video files at any depth of a folder, by their suffixes, sorted."""
    found = (
        path
        for here, names, _ in walked(folder)
        for path in (here / name for name in names)
        if path.suffix.lower() in suffixes and path.is_file()
    )
    return sorted(islice(found, most))
