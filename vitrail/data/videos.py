"""Reading video files with PyAV (FFmpeg): what a file holds, and its frames, upright and in time.

A camera writes a file lying on its side and says so in a matrix; a telephone writes as many frames
as it can, each with its time. Frames are given upright, and at an even rate: where the times of a
file are uneven, each moment shows the frame that was on the screen then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import files
from vitrail.data.decode import resize
from vitrail.data.formats import check_file
from vitrail.data.tree import is_picture, walked
from vitrail.errors import DataError, extra

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
    ".ogv", ".mts", ".m2ts", ".ts",
)  # fmt: skip
# What a clip has at least, and at most: beyond that a few clips would fill any disk.
FEWEST, MOST = 2, 36_000
MOST_PIXELS = 1 << 26
# Of the frames that a file promises so many have to be there.
WHOLE = 0.9
# Frames whose distance in time departs by this share from the usual one make the rate uneven.
UNEVEN = 0.1
# Videos that make a folder one of clips.
ENOUGH = 8
# Frames that are held at their own size at once.
BLOCK = 16


class BrokenClip(Exception):
    """A video that cannot be used: its kind, and the reason, which follows on "KEY ..."."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class Timing:
    """When the frames of a video are shown: how many there are at an even rate, and which frame of
    the file each of these is, None where it is the same one."""

    frames: int
    rows: tuple[int, ...] | None = None

    @property
    def uneven(self) -> bool:
        """Return whether the file's own times are uneven."""
        return self.rows is not None


@dataclass(frozen=True)
class Film:
    """What a video file says: (height, width) upright, the quarter turns to the left that make it
    so, frames that it promises (0: it says nothing), the name of its codec."""

    size: tuple[int, int]
    turns: int
    promised: int
    codec: str


def are_videos(folder: Path) -> bool:
    """Return whether a folder is certainly one of clips: its first files are videos by their
    suffixes, and none is a picture."""
    seen = 0
    for _, names, _ in walked(folder):
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if is_picture(name):
                return False
            seen += suffix in SUFFIXES
        if seen >= ENOUGH:
            break
    return seen > 1


def require_av() -> Any:
    """Return PyAV. Raises DataError, with the command that installs it, where it is missing."""
    try:
        import av
        import av.logging
    except ImportError:
        raise DataError(f"videos need PyAV: {extra('video')}") from None
    # FFmpeg writes of every odd byte to the error stream, also where it mends it.
    av.logging.set_level(None)
    return av


def file_digest(path: Path) -> bytes:
    """Return the 16 bytes by which a video is known: BLAKE2b of its file. Raises OSError."""
    state = hashlib.blake2b(digest_size=16)
    with files.reading(path) as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.digest()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Film, Iterator[tuple[np.ndarray, float | None]]]]:
    """Open a video: what it says, and its frames uint8 (h, w, 3), upright, each with its time in
    seconds. Raises BrokenClip, also while frames are taken, OSError and DataError."""
    av = require_av()
    size = path.stat()
    check_file(size)
    if not size.st_size:
        raise BrokenClip("empty", "is empty")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise BrokenClip("no video", "holds no video, only sound or other streams")
            stream = container.streams.video[0]
            stream.thread_count = 1
            frames = _frames(av, container, stream)
            first = next(frames, None)
            if first is None:
                raise BrokenClip("no frames", "holds no frame that can be decoded")
            turns = round(getattr(first, "rotation", 0) / 90) % 4
            film = _film(container, stream, first, turns)
            yield film, _upright(first, frames, turns)
    except av.error.FFmpegError as error:
        said = (error.strerror or str(error)).lower()
        raise BrokenClip(
            "broken clip", f"cannot be read as a video ({said}): it is damaged, cut off, or none"
        ) from error


def times_of(times: list[float | None]) -> Timing:
    """Return how the frames of a video, shown at these seconds, lie at an even rate."""
    n = len(times)
    known = [time for time in times if time is not None]
    if len(known) < n or n < 3:
        return Timing(n)
    told = np.array(known)
    steps = np.diff(told)
    usual = float(np.median(steps))
    if usual <= 0 or (steps < 0).any() or not (abs(steps - usual) > UNEVEN * usual).any():
        return Timing(n)
    # As many as at the mean rate, so that a long pause is as long as it was.
    even = told[0] + np.arange(n) * (told[-1] - told[0]) / (n - 1)
    rows = np.searchsorted(told, even + 1e-6 * usual, side="right") - 1
    return Timing(n, tuple(rows.tolist()))


def frames_of(path: Path, image: tuple[int, int]) -> np.ndarray:
    """Return the frames of a video at an even rate, uint8 (n, H, W, 3) with `image` = (H, W).

    Raises BrokenClip, OSError and DataError.
    """
    blocks, times, held = [], [], []
    with opened(path) as (_, frames):
        for frame, time in frames:
            times.append(time)
            held.append(frame)
            if len(held) == BLOCK:
                blocks.append(resize(np.stack(held), image))
                held = []
    if held:
        blocks.append(resize(np.stack(held), image))
    whole, timing = np.concatenate(blocks), times_of(times)
    return whole if timing.rows is None else whole[list(timing.rows)]


def _frames(av: Any, container: Any, stream: Any) -> Iterator[Any]:
    for count, frame in enumerate(container.decode(stream)):
        if count == MOST:
            raise BrokenClip("long clip", f"has more than {MOST:,} frames: cut it")
        if frame.width * frame.height > MOST_PIXELS:
            raise BrokenClip("bomb", f"has frames of {frame.width}x{frame.height} pixels")
        yield frame


def _film(container: Any, stream: Any, first: Any, turns: int) -> Film:
    size = (first.height, first.width)
    promised = stream.frames
    if not promised and stream.average_rate:
        promised = int(_seconds(container, stream) * float(stream.average_rate))
    codec = stream.codec_context.name
    return Film(size[::-1] if turns % 2 else size, turns, promised, codec)


def _seconds(container: Any, stream: Any) -> float:
    """Return how long a picture lasts as the file says, 0 where it says nothing of the picture: the
    file as a whole lasts as long as its sound."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    told = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if told is not None:
        hours, minutes, rest = told.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)
    return 0.0 if len(container.streams) > 1 else (container.duration or 0) / 1e6


def _upright(
    first: Any, rest: Iterator[Any], turns: int
) -> Iterator[tuple[np.ndarray, float | None]]:
    size = first.width, first.height
    frame = first
    while frame is not None:
        # A stream may change its size on the way; all frames of a clip have that of the first.
        shown = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
        yield np.ascontiguousarray(np.rot90(shown, turns)), frame.time
        frame = next(rest, None)
