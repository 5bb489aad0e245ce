"""Clips, sounds and sentences: encoders apart or as one, and DropToken, at equal steps or time.

    python bench/multimodal.py [--steps 400] [--seconds N] [--seeds 3] [--each 120] [--out FOLDER]

A seeded table of made clips: a square of one of four colours goes one of four ways over noise; its
colour is heard as the pitch of a tone, its way in when that is loud, and a sentence says both. Of a
fifth the sound or the sentence is missing. Arms differ in one thing; all have the same batches,
seeds and steps, or with --seconds as many steps as take an arm so much processor time. Told is
zero-shot accuracy of test clips among the 16 things that can be said, and recall at 5 of clips by
their sounds, each as a mean over seeds with the 95 % interval of the mean's t distribution. With
--out runs are kept, and those that are there are not trained again. The clips are synthetic: what
helps on films is another question.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from vitrail.jobs.train import train_recipe
from vitrail.measure.machine import machine

SIDE, FRAMES, RATE = 32, 8, 4000
COLOURS = {"red": (230, 40, 40), "green": (40, 220, 60), "blue": (60, 80, 240),
           "white": (240, 240, 240)}  # fmt: skip
WAYS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
PITCHES = dict(zip(COLOURS, (300.0, 500.0, 800.0, 1200.0), strict=True))
SWELLS = {"left": (1, 0), "right": (0, 1), "up": (1, 1), "down": (0, 0)}
INPUTS = (
    "task=multimodal", f"model.image={SIDE},{SIDE}", f"model.frames={FRAMES}",
    "model.patch=2,8,8", "model.samples=2048", "model.wave=64", "model.words=8",
    "model.vectors=32", "model.spaces.fine=64", "model.spaces.coarse=32", "model.dropout=0",
    "task.stride=1", "steps.batch=24", "steps.ema=none",
)  # fmt: skip
SIZES = ("dim=64", "depth=2", "hidden=128", "heads=1")
APART = (
    "model=vatt_bbs", *INPUTS,
    *(f"model.{kind}.{size}" for kind in ("video", "audio", "text") for size in SIZES),
)  # fmt: skip
TOGETHER = (
    "model=vatt_unified_medium", *INPUTS, *(f"model.encoder.{one}" for one in SIZES),
    "model.width=64",
)  # fmt: skip
ARMS = {
    "apart, half of the patches dropped": (*APART, "model.keep=0.5"),
    "one encoder, half dropped": (*TOGETHER, "model.keep=0.5"),
    "apart, none dropped": (*APART, "model.keep=1.0"),
    "apart, three quarters dropped": (*APART, "model.keep=0.25"),
}
# Steps of the trainings that tell the pace.
PROBES = (4, 104)
MAIN, SOUND = "zero-shot accuracy", "sound to clip, recall at 5"


def clip(path: Path, colour: str, way: str, random: np.random.Generator) -> None:
    """Write a square that goes a way over noise."""
    ground = random.integers(0, 110, (SIDE, SIDE, 3), dtype=np.uint8)
    place, size = random.integers(6, SIDE - 14, 2), 8
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = SIDE, SIDE, "yuv420p", 10**6
        for at in range(FRAMES):
            frame = ground.copy()
            top, left = (place + np.array(WAYS[way]) * round(1.2 * (at - FRAMES / 2))).clip(0, 24)
            frame[top : top + size, left : left + size] = COLOURS[colour]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def sound(path: Path, colour: str, way: str, random: np.random.Generator) -> None:
    """Write a tone whose pitch is the colour's, loud at its begin, its end, both or neither."""
    instant = np.arange(RATE) / RATE
    begin, end = SWELLS[way]
    loud = 0.15 + 0.5 * (begin * (instant < 0.25) + end * (instant > 0.26))
    tone = loud * np.sin(2 * np.pi * PITCHES[colour] * instant + random.uniform(0, 6))
    soundfile.write(path, (tone + 0.05 * random.standard_normal(RATE)).clip(-1, 1), RATE)


def made(folder: Path, each: int) -> Path:
    """Write a table of `each` clips of every colour; of a fifth the sound, or sentence, is not."""
    random, rows = np.random.default_rng(0), ["clip,sound,sentence,label"]
    for number in range(each * len(COLOURS)):
        colour, way = (str(random.choice([*names])) for names in (COLOURS, WAYS))
        clip(folder / f"{number}.mp4", colour, way, random)
        heard, said = f"{number}.wav", f"a {colour} square goes {way}"
        sound(folder / heard, colour, way, random)
        missing = random.random()
        given = "" if missing < 0.1 else heard, "" if missing > 0.9 else said
        rows.append(f"{number}.mp4,{','.join(given)},{colour} square goes {way}")
    table = folder / "clips.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def steps_of(seconds: float, settings: Sequence[str]) -> int:
    """Return how many steps take so much processor time: by two short trainings, whose difference
    is of steps alone, after a first one, which decodes what the others find in the cache."""
    spent = []
    for total in (PROBES[0], *PROBES):
        with tempfile.TemporaryDirectory() as scratch:
            began = time.process_time()
            train(Path(scratch) / "run", (*settings, f"steps.total={total}"))
            spent.append(time.process_time() - began)
    return round(seconds * (PROBES[1] - PROBES[0]) / (spent[2] - spent[1]))


def counted(file: Path, seconds: float, settings: Sequence[str]) -> int:
    """Return the same, measured once and kept in a file."""
    if not file.is_file():
        file.write_text(json.dumps(steps_of(seconds, settings)))
    return int(json.loads(file.read_text()))


def train(run: Path, settings: Sequence[str]) -> None:
    """Train, test and report without a word."""
    train_recipe(settings, out=run, threads=1, device="cpu", console=Console(quiet=True))


def spread(values: list[float]) -> str:
    """Return a mean with its 95 % interval, in percent."""
    middle = 100 * statistics.mean(values)
    if len(values) < 2:
        return f"{middle:.1f} %"
    half = 100 * statistics.stdev(values) / math.sqrt(len(values))
    return f"{middle:.1f} +- {half * stats.t.ppf(0.975, len(values) - 1):.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seconds", type=float, help="processor time of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--each", type=int, default=120)
    parser.add_argument("--out", type=Path, help="keep the runs here")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    console, found = Console(), dict[str, dict[str, list[float]]]()
    with tempfile.TemporaryDirectory() as scratch:
        out = asked.out or Path(scratch)
        data = out / "clips"
        data.mkdir(parents=True, exist_ok=True)
        table = data / "clips.csv"
        table = table if table.is_file() else made(data, asked.each)
        data_is = f"data={table}"
        for number, (arm, settings) in enumerate(ARMS.items()):
            told, steps = found.setdefault(arm, {MAIN: [], SOUND: []}), asked.steps
            if asked.seconds is not None:
                steps = counted(out / f"steps{number}.json", asked.seconds, (*settings, data_is))
                console.print(f"{arm}: {steps} steps")
            for seed in range(asked.seeds):
                run = out / f"arm{number}-seed{seed}"
                if not (run / "result.json").is_file():
                    train(run, (*settings, data_is, f"steps.total={steps}", f"seed={seed}"))
                result = json.loads((run / "result.json").read_text())
                for name, values in told.items():
                    values.append(result["test"][name])
                console.print(f"{arm}, seed {seed}: {told[MAIN][-1]:.1%}")
    shown = Table("arm", MAIN, SOUND)
    for arm, told in found.items():
        shown.add_row(arm, spread(told[MAIN]), spread(told[SOUND]))
    console.print(shown)
    console.print(machine())


if __name__ == "__main__":
    main()
