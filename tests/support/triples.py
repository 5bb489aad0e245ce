"""Tiny clips with a tone and a sentence each: the way a square goes is heard and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from support.clips import CLASSES, FRAMES, frames, write

RATE, SECONDS = 4000, 1.0
TONES = {"left": 330.0, "right": 990.0}
SAYINGS = ("it goes to the {}", "the square moves {}", "from here to the {} side")


def tone(path: Path, label: str, seed: int, *, rate: int = RATE, seconds: float = SECONDS) -> Path:
    """Write a tone of a class under noise, as 16 bits."""
    import soundfile

    random = np.random.default_rng(seed)
    time = np.arange(round(rate * seconds)) / rate
    wave = 0.4 * np.sin(2 * np.pi * TONES[label] * time + random.uniform(0, 6))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave + 0.02 * random.standard_normal(len(time)), rate)
    return path


def table(root: Path, each: int = 20) -> Path:
    """Write clips of both classes with sounds and sentences: of every fifth clip one is missing."""
    rows = ["clip,sound,sentence,label"]
    for label in CLASSES:
        for number in range(each):
            seed, name = 100 * CLASSES.index(label) + number, f"{label}{number:02}"
            write(root / f"clips/{name}.mp4", frames(seed, label, FRAMES))
            sound = "" if number % 5 == 1 else f"sounds/{name}.wav"
            if sound:
                tone(root / sound, label, seed)
            said = SAYINGS[number % 3].format(label)
            text = "" if number % 5 == 2 else said
            rows.append(f"clips/{name}.mp4,{sound},{text},{label}")
            if number % 4 == 0:  # another sentence of the same clip
                rows.append(f"clips/{name}.mp4,,{SAYINGS[(number + 1) % 3].format(label)},")
    path = root / "clips.csv"
    path.write_text("\n".join(rows) + "\n")
    return path
