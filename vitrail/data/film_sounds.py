"""The sounds beside clips as files: sound files, or videos whose own sound track is meant.

A track is as long as the picture of its film and begins with it: where it begins later, silence
goes before it, and what is heard before the first frame or behind the last one is left out. So the
sound of a moment is found by its share of either.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import files
from vitrail.data.formats import check_file
from vitrail.data.scan import digest
from vitrail.data.sounds import MOST_S, SLOWEST, BrokenSound, Sound, checked, read_sound
from vitrail.data.videos import SUFFIXES, file_digest, require_av


def is_film(name: str) -> bool:
    """Return whether a file is a video by its name."""
    return name.lower().endswith(SUFFIXES)


def read_track(path: Path) -> tuple[bytes, Sound]:
    """Return the digest of a sound file or video, and its sound. Raises BrokenImage, OSError and
    DataError."""
    check_file(path.stat())
    if is_film(path.name):
        return file_digest(path), _of_film(path)
    data = files.read(path, files.LARGE_BYTES)
    return digest(data), read_sound(data)


def _of_film(path: Path) -> Sound:
    av = require_av()
    if not path.stat().st_size:
        raise BrokenSound("empty", "is empty")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise BrokenSound("no sound", "is a video without a sound track")
            if (context := container.streams.audio[0].codec_context) is None:
                raise BrokenSound("broken", "has a sound track in a code that nobody here knows")
            codec = context.name
            values, rate, late, seconds = _decoded(av, container)
    except av.error.FFmpegError as error:
        said = (error.strerror or str(error)).lower()
        raise BrokenSound("broken", f"cannot be decoded as a sound ({said})") from error
    return checked(_beside(values, round(late * rate), seconds, rate), rate, codec)


def _decoded(av: Any, container: Any) -> tuple[np.ndarray, int, float, float | None]:
    """Return the samples of a track, float32 (n, channels), their rate, by how many seconds they
    begin behind the picture, and how long that lasts, None without one. Raises BrokenSound."""
    stream, picture = container.streams.audio[0], _Picture()
    rate, begin, found, n = stream.codec_context.sample_rate, None, [], 0
    if rate < SLOWEST:
        raise BrokenSound("broken", f"tells a rate of {rate:,} Hz, which no recorder has")
    planar = av.AudioResampler(format="fltp", rate=rate)
    for packet in container.demux(stream, *container.streams.video[:1]):
        if packet.stream.type == "video":
            picture.add(packet)
            continue
        for frame in packet.decode() if n < MOST_S * rate else ():
            begin = frame.time if begin is None else begin
            for one in planar.resample(frame):
                found.append(one.to_ndarray().T)
                n += len(found[-1])
    found += [one.to_ndarray().T for one in planar.resample(None)]
    if not n:
        raise BrokenSound("no sound", "is a video whose sound track is empty")
    values = np.concatenate(found)[: MOST_S * rate].astype(np.float32)
    return values, rate, (begin or 0.0) - picture.begin, picture.seconds


class _Picture:
    """When the picture of a film begins and ends, told by its packets."""

    def __init__(self) -> None:
        self._begin, self._end = math.inf, -math.inf

    def add(self, packet: Any) -> None:
        if packet.pts is not None:
            base = float(packet.time_base)
            self._begin = min(self._begin, packet.pts * base)
            self._end = max(self._end, (packet.pts + (packet.duration or 0)) * base)

    @property
    def begin(self) -> float:
        return self._begin if self._end > self._begin else 0.0

    @property
    def seconds(self) -> float | None:
        return self._end - self._begin if self._end > self._begin else None


def _beside(values: np.ndarray, late: int, seconds: float | None, rate: int) -> np.ndarray:
    """Return samples (n, channels) that begin with the picture, and end with it where its length
    is known; `late` are the samples by which they begin behind it."""
    values = values[-late:] if late < 0 else np.pad(values, ((late, 0), (0, 0)))
    if seconds is None:
        return values
    n = min(round(seconds * rate), MOST_S * rate)
    return np.pad(values[:n], ((0, max(0, n - len(values))), (0, 0)))
