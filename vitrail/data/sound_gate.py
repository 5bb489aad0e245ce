"""What the data gate knows of sounds: a pass over all, which rate and length they get, what is odd.

Rate and length are decided once for all of them: the rate that most have, at most 16 kHz, and a
length that nineteen of twenty keep to, at most 5 s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vitrail.data import twins
from vitrail.data.formats import BrokenImage
from vitrail.data.hearing import Hearing, Wanted
from vitrail.data.names import few
from vitrail.data.parallel import in_order
from vitrail.data.scan import digest
from vitrail.data.sounds import CLIPPED, QUIET, read_sound
from vitrail.data.source import Finding, Item, Source
from vitrail.data.tally import KEYS_SHOWN, Broken, Scan, Seen, Tally
from vitrail.errors import DataError
from vitrail.units import counted, shortened

MOST_RATE, MOST_S, LEAST_S = 16_000, 5.0, 0.1
USUAL = 0.95
_ROWS_AT_ONCE = 16


class Heard(NamedTuple):
    """What is kept of a sound that can be learned from."""

    rate: int
    channels: int
    seconds: float
    clipped: float
    peak: float


def scan_sounds(
    source: Source, wanted: Wanted, *, workers: int | None, progress: bool
) -> tuple[Scan, Hearing, tuple[Finding, ...]]:
    """Decode every sound twice: for rates and lengths, then at those that all get.

    Returns what `scan.scan_files` does, how they are heard, and what is odd about them. Raises
    DataError where none can be learned from.
    """
    tally, heard = Tally(source.items), {}

    def first(item: Item) -> Heard | Broken:
        return _listened(source, item)

    for row, one in enumerate(_each(source, range(len(source)), first, workers, progress)):
        if isinstance(one, Broken):
            tally.add(row, one)
        elif isinstance(one, Heard):
            heard[row] = one
    if not heard:
        key, _, reason = tally.scan(()).broken[0]
        raise DataError(
            f"none of the {len(source):,} files of {source.origin} can be learned from as a sound "
            f"(first: {shortened(key)} {reason}): give WAV, FLAC, OGG, MP3 or AIFF files"
        )
    hearing = _hearing(wanted, [*heard.values()])
    seen = _each(source, list(heard), lambda item: _drawn(source, item, hearing), workers, progress)
    for row, one in zip(list(heard), seen, strict=True):
        if not isinstance(one, Heard):
            tally.add(row, one)
    return tally.scan(()), hearing, _findings(source, heard, hearing)


def _each(
    source: Source,
    rows: Sequence[int],
    work: Callable[[Item], Heard | Seen | Broken],
    workers: int | None,
    progress: bool,
):
    """Yield what some work gives for the sounds of some rows, in their order."""

    def some(part: range) -> list[Heard | Seen | Broken]:
        return [work(source.items[rows[at]]) for at in part]

    done = in_order(
        some, len(rows), size=_ROWS_AT_ONCE, workers=workers, title="listening to sounds",
        progress=progress,
    )  # fmt: skip
    return (one for batch in done for one in batch)


def _read(source: Source, item: Item) -> bytes:
    source.check(item)
    return source.read(item)


def _listened(source: Source, item: Item) -> Heard | Broken:
    try:
        sound = read_sound(_read(source, item))
    except BrokenImage as error:
        return Broken(item.key, error.kind, error.reason)
    except OSError as error:
        return Broken(item.key, "unreadable", f"cannot be read ({error.strerror or error})")
    return Heard(sound.rate, sound.channels, sound.seconds, sound.clipped, sound.peak)


def _drawn(source: Source, item: Item, hearing: Hearing) -> Seen | Broken:
    try:
        data = _read(source, item)
        sound = read_sound(data)
    except (BrokenImage, OSError) as error:
        return Broken(item.key, "unreadable", f"has changed while it was read ({error})")
    picture = hearing.picture(sound.at(hearing.rate))
    mark = twins.grey_signatures(picture[None])[0].tobytes()
    channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
    mode = f"{sound.kind} {channels}, {sound.rate:,} Hz"
    return Seen(digest(data), hearing.image, mode, mark, True, (), None, None)


def _hearing(wanted: Wanted, heard: Sequence[Heard]) -> Hearing:
    """Choose the rate and length for all sounds, where the user wants no others."""
    rates = Counter(one.rate for one in heard)
    usual = max(rates, key=lambda rate: (rates[rate], rate))
    length = float(np.quantile([one.seconds for one in heard], USUAL))
    seconds = wanted.seconds or min(MOST_S, max(LEAST_S, round(length + 0.005, 2)))
    return Hearing.of(
        rate=wanted.rate or min(usual, MOST_RATE), seconds=seconds, bands=wanted.bands
    )


def _findings(source: Source, heard: dict[int, Heard], hearing: Hearing) -> tuple[Finding, ...]:
    """Tell what is odd about the sounds that are learned from."""
    heard_as = f"spectrograms of {hearing.bands} bands and {hearing.steps} steps"
    if source.kind == "waves":
        heard_as = f"waveforms of {hearing.samples:,} samples"
    told = [
        Finding(
            "hearing", "info",
            f"sounds are heard at {hearing.rate:,} Hz, {hearing.seconds:.2f} s long, as {heard_as}",
        ),
    ]  # fmt: skip
    rates = Counter(one.rate for one in heard.values())
    if len(rates) > 1:
        shown = few([f"{rate:,} Hz: {n:,}" for rate, n in rates.most_common()])
        text = f"{len(rates)} rates ({shown}), all resampled to {hearing.rate:,} Hz"
        told.append(Finding("rates", "warning", text))

    def found(kind: str, severity, holds: Callable[[Heard], bool], text: str) -> None:
        keys = tuple(source.items[row].key for row, one in heard.items() if holds(one))
        if keys:
            n = f"{counted(len(keys), 'sound')} {'is' if len(keys) == 1 else 'are'}"
            told.append(Finding(kind, severity, f"{n} {text}", keys[:KEYS_SHOWN]))

    found("clipped", "warning", lambda one: one.clipped > CLIPPED, "cut off at the loudest value")
    found("quiet", "warning", lambda one: one.peak < QUIET, "below a hundredth of full scale")
    lower = f"recorded at less than {hearing.rate:,} Hz: what is higher is missing"
    found("low rate", "warning", lambda one: one.rate < hearing.rate, lower)
    longer = f"longer than {hearing.seconds:.2f} s, of which the middle is heard"
    found("long", "info", lambda one: one.seconds > hearing.seconds + 0.005, longer)
    shorter = "less than half as long, between silences"
    found("short", "info", lambda one: one.seconds < hearing.seconds / 2, shorter)
    found("channels", "info", lambda one: one.channels > 1, "mixed down to one channel")
    return tuple(told)
