"""The pass over all clips that the data gate makes: each is decoded once, little of it is kept.

Two clips are copies when frames from the same five places of both look alike, all of them: the
same scene with another action does not, another size, rate of bits or container of one take does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail.data.decode import BrokenImage, resize
from vitrail.data.parallel import in_order
from vitrail.data.source import Sampling, Source
from vitrail.data.tally import KEYS_SHOWN, Broken, Scan, words
from vitrail.data.videos import (
    FEWEST,
    WHOLE,
    BrokenClip,
    Film,
    Timing,
    file_digest,
    opened,
    times_of,
)
from vitrail.units import counted

# Frames of a clip that are compared, each as SIDE x SIDE greys.
LOOKS, SIDE = 5, 16
# How far copies differ: on the mean over all greys, and anywhere, in levels of 255.
ALIKE, APART = 2.5, 16.0
# No grey changes by more from frame to frame: a picture, or a camera that stood still.
STILL = 3.0
# Rows that are compared with all others at once.
BLOCK = 256


@dataclass(frozen=True, eq=False)
class Seen:
    """What is kept of one clip."""

    digest: bytes
    film: Film
    timing: Timing
    looks: np.ndarray
    moves: bool


def scan_clips(
    source: Source, sampling: Sampling, *, workers: int | None, progress: bool
) -> tuple[Scan, dict[int, int]]:
    """Return what a pass over all clips sees, and how many frames each whole one has, by row."""

    def work(part: range) -> list[Seen | Broken]:
        return [_examined(source, row) for row in part]

    passed = in_order(
        work, len(source), size=1, workers=workers, title="reading clips", progress=progress
    )
    seen, broken = {}, []
    for row, one in enumerate(one for some in passed for one in some):
        if isinstance(one, Broken):
            broken.append(one)
        else:
            seen[row] = one
    rows = np.array(sorted(seen), np.int64)
    kept = [seen[row] for row in rows.tolist()]
    names = tuple(sorted({one.film.codec for one in kept}))
    digests = words(bytearray().join(one.digest for one in kept))
    scan = Scan(
        rows, digests, np.array([one.film.size for one in kept], np.int32).reshape(-1, 2),
        np.array([names.index(one.film.codec) for one in kept], np.int8), names,
        np.zeros((len(rows), 0), np.uint8), False, broken,
        _traits(source, sampling, dict(zip(rows.tolist(), kept, strict=True))),
        groups=copies(np.array([one.looks for one in kept], np.float32), digests),
    )  # fmt: skip
    return scan, {row: one.timing.frames for row, one in seen.items()}


def copies(looks: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Return int64 (N,), equal for clips that show the same; `looks` are (N, ...) greys.

    Groups are stars around the clip with the least digest, so likeness does not spread.
    """
    n = len(looks)
    groups = np.full(n, -1, np.int64)
    flat = looks.reshape(n, int(np.prod(looks.shape[1:])))
    order = np.lexsort(digests.T[::-1])
    for start in range(0, n, BLOCK):
        block = order[start : start + BLOCK]
        means = np.square(flat[block]).mean(1)[:, None] + np.square(flat).mean(1)
        means = means - 2 * flat[block] @ flat.T / max(1, flat.shape[1])
        for leader, distances in zip(block.tolist(), means, strict=True):
            if groups[leader] >= 0:
                continue
            near = np.flatnonzero((distances <= ALIKE**2) & (groups < 0))
            close = abs(flat[near] - flat[leader]).max(1, initial=0) <= APART
            groups[near[close]] = leader
            groups[leader] = leader
    return groups


def _examined(source: Source, row: int) -> Seen | Broken:
    item = source.items[row]
    try:
        return _seen(source.path(item))
    except (BrokenClip, BrokenImage) as error:
        return Broken(item.key, error.kind, error.reason)
    except OSError as error:
        return Broken(item.key, "unreadable", f"cannot be read ({error.strerror or error})")


def _seen(path: Path) -> Seen:
    greys, times, moved, held = [], [], 0.0, None
    with opened(path) as (film, frames):
        for frame, time in frames:
            grey = resize(frame[None], (SIDE, SIDE))[0].mean(2)
            moved = max(moved, 0.0 if held is None else float(abs(grey - held).max()))
            held = grey
            greys.append(grey.astype(np.float32))
            times.append(time)
    if len(greys) < FEWEST:
        raise BrokenClip(
            "too short", f"has {counted(len(greys), 'frame')}, and a clip needs {FEWEST}"
        )
    if len(greys) < WHOLE * film.promised - 1:
        raise BrokenClip(
            "truncated", f"is truncated: {len(greys)} of {film.promised} frames are there"
        )
    timing = times_of(times)
    chosen = np.linspace(0, timing.frames - 1, LOOKS).round().astype(int)
    own = chosen if timing.rows is None else np.array(timing.rows)[chosen]
    looks = np.stack([greys[at] for at in own])
    return Seen(file_digest(path), film, timing, looks, moved > STILL)


def _traits(
    source: Source, sampling: Sampling, seen: dict[int, Seen]
) -> dict[str, tuple[int, list[str]]]:
    """Count the clips that have each trait, and name the first of them."""
    found: dict[str, list[str]] = {}
    for row, one in seen.items():
        for trait, holds in {
            "turned": one.film.turns != 0,
            "uneven rate": one.timing.uneven,
            "short clip": one.timing.frames < sampling.span,
            "still": not one.moves,
        }.items():
            if holds:
                found.setdefault(trait, []).append(source.items[row].key)
    return {trait: (len(keys), keys[:KEYS_SHOWN]) for trait, keys in found.items()}
