"""Sound files: what is read of them, at one rate and in one channel, and why one is broken."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from vitrail.data.decode import resize
from vitrail.data.formats import OVERSIZED_BYTES, BrokenImage
from vitrail.data.hearing import Hearing
from vitrail.errors import ConfigError, extra

# Files that are sounds by their names; what they hold is the gate's affair.
SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
    ".w64", ".rf64",
)  # fmt: skip
# More of a file is not listened to.
MOST_S = 600
# No recorder works at other rates, and a file that says so would take hours to resample.
SLOWEST, FASTEST = 100, 10_000_000
# A sound that is never louder than this share of full scale, and one shorter than this, is none.
SILENT, SHORTEST_S = 1e-4, 0.05
# So many samples in a row at the loudest value are cut off, and so large a share of all is told.
IN_A_ROW, CLIPPED = 3, 0.001
QUIET = 0.01


class BrokenSound(BrokenImage):
    """Raised for a file that is not a sound to learn from; told wherever broken images are.

    `kind` is one of "empty", "not a sound", "truncated", "broken", "oversized", "no values",
    "silent", "too short", and of a video "no sound".
    """


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound as it was recorded: float32 (n,), the mean of its `channels`, at `rate` hertz.

    `kind` is its format; `clipped` the share of samples that are cut off, `peak` the loudest one.
    """

    wave: np.ndarray
    rate: int
    channels: int
    kind: str
    clipped: float
    peak: float

    @property
    def seconds(self) -> float:
        """Return how long it is, in seconds."""
        return len(self.wave) / self.rate

    def at(self, rate: int) -> np.ndarray:
        """Return the sound at another rate, float32 (m,), by a polyphase filter."""
        if rate == self.rate:
            return self.wave
        from scipy.signal import resample_poly

        common = gcd(rate, self.rate)
        return resample_poly(self.wave, rate // common, self.rate // common).astype(np.float32)


def require_soundfile() -> Any:
    """Return the library that decodes. Raises ConfigError where it is not installed."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise ConfigError(f"sounds need the library soundfile: {extra('audio')}") from error
    return soundfile


def read_sound(data: bytes) -> Sound:
    """Decode the bytes of a sound file, whole, or its first ten minutes. Raises BrokenSound."""
    soundfile = require_soundfile()
    if not data:
        raise BrokenSound("empty", "is empty")
    if len(data) > OVERSIZED_BYTES:
        raise BrokenSound("oversized", f"has {len(data):,} bytes: cut it")
    if missing := _missing(data):
        raise BrokenSound("truncated", f"ends {missing:,} bytes before its end: copy it again")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, kind, expected = file.samplerate, file.format, file.frames
            if not SLOWEST <= rate <= FASTEST:
                raise BrokenSound("broken", f"tells a rate of {rate:,} Hz, which no recorder has")
            values = file.read(MOST_S * rate, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        why = str(error).rstrip(".")
        if "not recognised" in why or "unknown format" in why.lower():
            raise BrokenSound("not a sound", "cannot be read as a sound file") from error
        raise BrokenSound("broken", f"is damaged ({why})") from error
    if len(values) < min(expected, MOST_S * rate):
        raise BrokenSound("truncated", f"ends after {len(values):,} of {expected:,} samples")
    return checked(values, rate, kind)


def checked(values: np.ndarray, rate: int, kind: str) -> Sound:
    """Return a sound of float32 (n, channels), if there is one. Raises BrokenSound."""
    if len(values) < SHORTEST_S * rate:
        raise BrokenSound(
            "too short", f"lasts {len(values) / rate:.3f} s, less than {SHORTEST_S:g} s"
        )
    if not np.isfinite(values).all():
        raise BrokenSound("no values", "holds NaN or infinite values")
    wave = values.mean(1)
    peak = float(np.abs(wave).max())
    if peak < SILENT:
        cancel = values.shape[1] > 1 and np.abs(values).max() >= SILENT
        why = "has channels that cancel each other out" if cancel else "is silent"
        raise BrokenSound("silent", why)
    return Sound(wave, rate, values.shape[1], kind, _cut_off(values), peak)


def _cut_off(values: np.ndarray) -> float:
    """Return the share of samples that stay at the loudest value, three in a row or more."""
    loud = np.abs(values)
    top = loud >= loud.max() * (1 - 1e-4)
    rows = top[:-2] & top[1:-1] & top[2:]
    return float(rows.mean()) if len(rows) else 0.0


def _missing(data: bytes) -> int:
    """Count the bytes that a WAV file promises and that are not there: libsndfile takes what is
    left for the whole.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return 0
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        if name == b"data":
            # Recorders that write to a pipe leave the length open.
            return 0 if size >= 0x7FFFFFFF else max(0, at + 8 + size - len(data))
        at += 8 + size + size % 2
    return 0


def wave_of(data: bytes, hearing: Hearing) -> np.ndarray:
    """Return what is heard of a sound file, float32 (samples,). Raises BrokenSound."""
    return hearing.clip(read_sound(data).at(hearing.rate))


def sound_picture(data: bytes, hearing: Hearing, image: tuple[int, int]) -> np.ndarray:
    """Return the spectrogram of a sound file at a size: uint8 (H, W, 1). Raises BrokenSound."""
    wave = read_sound(data).at(hearing.rate)
    return resize(hearing.picture(wave)[None, ..., None], image)[0]
