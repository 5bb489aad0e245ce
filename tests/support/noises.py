"""Sounds for tests: tones of two classes by several voices, and a folder of broken ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

RATE = 8_000
# Two classes: a tone that rises, and one that falls.
CLASSES = {"fall": (900, 400), "rise": (400, 900)}
VOICES = ("ann", "bob", "cyd", "dan", "eve", "fay")


def sweep(start: float, end: float, random: np.random.Generator, *, rate=RATE, seconds=0.4):
    """A tone from one pitch to another under a little noise, float32."""
    n = int(rate * seconds)
    pitch = np.linspace(start, end, n) * random.uniform(0.9, 1.1)
    tone = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) * np.hanning(n)
    return (tone + 0.003 * random.standard_normal(n)).astype(np.float32)


def write(folder: Path, each: int = 4) -> Path:
    """Write `each` takes of each class by each of six voices: CLASS/VOICE_TAKE.wav."""
    for seed, (name, pitches) in enumerate(CLASSES.items()):
        (folder / name).mkdir(parents=True)
        for voice, who in enumerate(VOICES):
            for take in range(each):
                random = np.random.default_rng([seed, voice, take])
                wave = sweep(*pitches, random, seconds=random.uniform(0.3, 0.4))
                soundfile.write(folder / name / f"{who}_{take}.wav", wave, RATE)
    return folder


def encoded(wave: np.ndarray, rate: int = RATE, form: str = "WAV") -> bytes:
    """The bytes of a sound file."""
    buffer = io.BytesIO()
    subtype = "FLOAT" if form == "WAV" and not np.isfinite(wave).all() else None
    soundfile.write(buffer, wave, rate, format=form, subtype=subtype)
    return buffer.getvalue()


# What is wrong with each file that is left out.
BROKEN = {
    "empty.wav": "empty",
    "text.wav": "not a sound",
    "cut.wav": "truncated",
    "cut.flac": "broken",
    "silent.wav": "silent",
    "opposed.wav": "silent",
    "nan.wav": "no values",
    "blip.wav": "too short",
}
# What is said of files that stay.
ODD = {
    "clipped.wav": "clipped",
    "quiet.wav": "quiet",
    "other.wav": "low rate",
    "long.wav": "long",
    "stereo.wav": "channels",
}


def write_broken(folder: Path) -> Path:
    """Write the sounds of `write` with all of `BROKEN` and `ODD` among those of "rise", a copy of
    one under another name and of another as FLAC at twice the rate."""
    write(folder)
    random, rise = np.random.default_rng(1), folder / "rise"
    wave = sweep(400, 900, random)
    for name, data in {
        "empty.wav": b"",
        "text.wav": b"no sound at all, but some words\n" * 20,
        "cut.wav": encoded(wave)[:3000],
        "cut.flac": encoded(wave, form="FLAC")[:2500],
        "silent.wav": encoded(np.zeros(3000, np.float32)),
        "opposed.wav": encoded(np.stack([wave, -wave], 1)),
        "nan.wav": encoded(np.where(np.arange(len(wave)) == 99, np.nan, wave)),
        "blip.wav": encoded(wave[:300]),
        "clipped.wav": encoded((20 * wave).clip(-1, 1)),
        "quiet.wav": encoded(wave * 0.005),
        "other.wav": encoded(sweep(400, 900, random, rate=4_000), 4_000),
        "long.wav": encoded(sweep(400, 900, random, seconds=2.0)),
        "stereo.wav": encoded(np.stack([wave[::-1], 0.5 * wave[::-1]], 1)),
        "again.wav": (rise / "ann_0.wav").read_bytes(),
        "higher.flac": _higher(rise / "bob_0.wav"),
    }.items():
        (rise / name).write_bytes(data)
    return folder


def _higher(path: Path) -> bytes:
    from scipy.signal import resample_poly

    wave, rate = soundfile.read(path, dtype="float32")
    return encoded(resample_poly(wave, 2, 1).astype(np.float32), 2 * rate, "FLAC")
