"""What the data gate knows of sounds beside clips: which cannot be used, and what is odd.

A clip whose sound is broken stays, without it. All sounds get the rate that most of them have, at
most 48 kHz, unless another is wanted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from vitrail.data.film_sounds import read_track
from vitrail.data.findings import meant
from vitrail.data.formats import BrokenImage
from vitrail.data.names import few
from vitrail.data.parallel import in_order
from vitrail.data.sounds import CLIPPED, QUIET
from vitrail.data.source import Finding, Severity, Source
from vitrail.data.tally import KEYS_SHOWN, Broken, Scan
from vitrail.data.tracks import Tracks, resampled
from vitrail.errors import DataError
from vitrail.units import counted

MOST_RATE = 48_000
_FILES_AT_ONCE = 16


class Heard(NamedTuple):
    """What is kept of a sound that can be learned from."""

    digest: bytes
    rate: int
    length: int
    clipped: float
    peak: float


def with_tracks(
    source: Source, tracks: Tracks, found: Scan, *, workers: int | None, progress: bool
) -> tuple[Source, tuple[Finding, ...]]:
    """Listen to the sounds of all clips that are whole: the source that knows them, and what is
    odd. Raises DataError where neither a sound nor a sentence is left."""
    assert source.root is not None
    root, rows = source.root, [row for row in found.rows.tolist() if tracks.keys[row] is not None]
    names = sorted({str(tracks.keys[row]) for row in rows})

    def work(part: range) -> list[Heard | Broken]:
        return [_heard(root, names[at]) for at in part]

    passed = in_order(
        work, len(names), size=_FILES_AT_ONCE, workers=workers, title="listening to sounds",
        progress=progress,
    )  # fmt: skip
    told = dict(zip(names, (one for some in passed for one in some), strict=True))
    heard = {name: one for name, one in told.items() if isinstance(one, Heard)}
    broken = [one for one in told.values() if isinstance(one, Broken)]
    rate = tracks.rate or _usual([*heard.values()])
    keys = tuple(key if key in heard else None for key in tracks.keys)
    own = {row: heard[str(keys[row])] for row in rows if keys[row] is not None}
    settled = replace(
        tracks, keys=keys, rate=rate,
        lengths={row: resampled(one.length, one.rate, rate) for row, one in own.items()},
        digests={row: one.digest for row, one in own.items()},
    )  # fmt: skip
    spoken = source.captions is not None and any(source.captions.of(found.rows))
    if not own and not spoken:
        first = f" (first: {broken[0].key} {broken[0].reason})" if broken else ""
        raise DataError(
            f"no clip of {source.origin} has a sound that can be heard or a sentence{first}: there "
            "is nothing to compare clips with"
        )
    return replace(source, tracks=settled), (*_of_broken(broken), *_odd(heard, settled))


def _heard(root: Path, key: str) -> Heard | Broken:
    try:
        known, sound = read_track(root / key)
    except BrokenImage as error:
        return Broken(key, error.kind, error.reason)
    except OSError as error:
        return Broken(key, "unreadable", f"cannot be read ({error.strerror or error})")
    return Heard(known, sound.rate, len(sound.wave), sound.clipped, sound.peak)


def _usual(heard: list[Heard]) -> int:
    rates = Counter(one.rate for one in heard)
    return min(MOST_RATE, max(rates, key=lambda rate: (rates[rate], rate))) if rates else MOST_RATE


def _of_broken(broken: list[Broken]) -> list[Finding]:
    kinds: dict[str, list[str]] = {}
    for one in broken:
        kinds.setdefault(one.kind, []).append(one.key)
    return [
        Finding(
            f"sound {kind}", "error",
            f"{_are(len(keys))} {meant(kind)}, left out: their clips stay without", tuple(keys),
        )
        for kind, keys in kinds.items()
    ]  # fmt: skip


def _odd(heard: dict[str, Heard], tracks: Tracks) -> list[Finding]:
    """Tell what is odd about sounds that are learned from."""
    if not heard:
        return []
    rate, length = tracks.rate, tracks.samples / tracks.rate
    told = [Finding("hearing", "info", f"sounds are heard at {rate:,} Hz, {length:.2f} s of each")]
    rates = Counter(one.rate for one in heard.values())
    if len(rates) > 1:
        shown = few([f"{one:,} Hz: {n:,}" for one, n in rates.most_common()])
        text = f"{len(rates)} rates of sounds ({shown}), all resampled to {rate:,} Hz"
        told.append(Finding("rates", "warning", text))
    odd: tuple[tuple[str, Severity, str, list[str]], ...] = (
        ("clipped", "warning", "cut off at the loudest value",
         [key for key, one in heard.items() if one.clipped > CLIPPED]),
        ("quiet", "warning", "below a hundredth of full scale",
         [key for key, one in heard.items() if one.peak < QUIET]),
        ("low rate", "warning", f"recorded at less than {rate:,} Hz: what is higher is missing",
         [key for key, one in heard.items() if one.rate < rate]),
        ("short sound", "info", f"shorter than {length:.2f} s: silence follows",
         [key for key, one in heard.items()
          if resampled(one.length, one.rate, rate) < tracks.samples]),
    )  # fmt: skip
    told += [
        Finding(kind, severity, f"{_are(len(keys))} {text}", tuple(keys[:KEYS_SHOWN]))
        for kind, severity, text, keys in odd
        if keys
    ]
    return told


def _are(n: int) -> str:
    return f"{counted(n, 'sound')} {'is' if n == 1 else 'are'}"
