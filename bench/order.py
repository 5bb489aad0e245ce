"""A study: does a pooling pyramid see the order of frames that a ViT of equal cost does not?

    python bench/order.py [DATA] [--out FOLDER] [--seeds 3] [--steps 500] [--clips 2400]
                          [--arms NAME ...]

Clips are made by a seeded script of real pictures, those of DATA (by default the bundled sample):
each picture goes left, right, up or down, comes nearer or goes away, or becomes brighter or darker.
These eight classes are four pairs that differ in the order of their frames alone. MViT's pyramid
and two ViTs of the same multiply-adds, with patches of 4 and 8 pixels, learn them in as many steps.
Each is then asked about the test clips as they are, and with their frames shuffled, the control of
MViT's paper (arXiv 2104.11227): what sees order falls to a half at best, what sees single frames
stays. Results are in FOLDER/order.json, a table beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from arms import Figures, finished, table

from vitrail.config import to_json
from vitrail.data.augment import Augment
from vitrail.data.batches import generator
from vitrail.data.clip_pixels import ClipPixels
from vitrail.data.decode import decode, resize
from vitrail.data.opening import open_source
from vitrail.models import config_json, mvit
from vitrail.recipes.recipe import Data, Recipe
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.subject import counted
from vitrail.run.view import View
from vitrail.run.workshop import normal
from vitrail.tasks.video import Video
from vitrail.training.optimizer import AdamW
from vitrail.training.schedule import Schedule
from vitrail.training.steps import Steps

SIDE, FRAMES, BATCH = 32, 8, 32
CLASSES = ("left", "right", "up", "down", "nearer", "away", "brighter", "darker")
# How far from the middle a window goes, in pixels, and how much of the side it gains or loses.
REACH, ZOOM, LIGHT = 10, 0.4, 0.45
PLAIN = {
    "queries": "first", "residual": False, "widen": "mlp", "position": "absolute", "pool": "mean",
    "frames": FRAMES, "image": (SIDE, SIDE), "classes": len(CLASSES), "drop_path": 0.0,
}  # fmt: skip
ARMS = {
    "ViT, patches of 8": mvit.Config(
        dim=68, heads=4, depths=(6,), reduction=1, kernel=0, patch=8, **PLAIN
    ),
    "ViT, patches of 4": mvit.Config(
        dim=24, heads=2, depths=(6,), reduction=1, kernel=0, patch=4, **PLAIN
    ),
    "MViT's pyramid": mvit.Config(dim=32, heads=1, depths=(1, 2, 3), reduction=4, **PLAIN),
}
BASE = "ViT, patches of 8"


class Shuffled(ClipPixels):
    """Clips whose frames come in an order that is drawn once for each."""

    def taken(self, indices: Sequence[int] | np.ndarray, starts: Sequence[int]) -> np.ndarray:
        clips = super().taken(indices, starts)
        for clip, at in zip(clips, indices, strict=True):
            clip[:] = clip[generator(0, int(at)).permutation(len(clip))]
        return clips


def moving(picture: np.ndarray, label: str) -> np.ndarray:
    """Return a picture uint8 (h, w, 3) that changes in one way, uint8 (FRAMES, SIDE, SIDE, 3)."""
    wide = resize(picture[None], (SIDE + 2 * REACH, SIDE + 2 * REACH))[0]
    frames, middle = [], REACH
    back = label in ("right", "down", "away", "darker")
    for time in np.linspace(1, -1, FRAMES) if back else np.linspace(-1, 1, FRAMES):
        top, left, side, light = middle, middle, SIDE, 1.0
        if label in ("left", "right"):
            left += round(REACH * time)
        elif label in ("up", "down"):
            top += round(REACH * time)
        elif label in ("nearer", "away"):
            side = round(SIDE * (1 - ZOOM * time))
            top = left = (len(wide) - side) // 2
        else:
            light = 1 + LIGHT * time
        shown = resize(wide[None, top : top + side, left : left + side], (SIDE, SIDE))[0]
        frames.append((shown * light).clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def write(data: str, folder: Path, clips: int) -> Path:
    """Write clips by class, as many of each, every one of a picture of its own."""
    source, random = open_source(data), np.random.default_rng(0)
    chosen = random.permutation(len(source))[:clips]
    for number, row in enumerate(chosen.tolist()):
        label = CLASSES[number % len(CLASSES)]
        picture = decode(source.read(source.items[row]), (SIDE, SIDE), 3, ())
        path = folder / label / f"{number:05}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            # Without any loss, so that all frames are as sharp.
            stream = container.add_stream("ffv1", rate=8)
            stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv444p"
            for shown in moving(picture, label):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            container.mux(stream.encode())
    return folder


def trained(arm: str, seed: int, clips: Read, steps: int, folder: Path) -> Figures:
    """Train an arm to its end: which test clips are right, in their order and shuffled."""
    workshop, config = clips.workshop, ARMS[arm]
    recipe = Recipe(
        to_json(config_json(config)), workshop.data(Data("clips"), (SIDE, SIDE), 3),
        Steps(steps, BATCH), optimizer=AdamW(lr=1e-3, weight_decay=0.02),
        schedule=Schedule(max(1, steps // 10)), task=task(),
        augment=Augment(flip=0.0, shift=0.03), seed=seed,
    )  # fmt: skip
    model = workshop.train(recipe, folder / f"{arm}-{seed}", steps).best
    verdict = judge(model, recipe, workshop.split.test, workshop)
    known = verdict.pixels
    shuffled = Shuffled(known.part, known.image, known.channels, known.images)
    mixed = recipe.task.judge(model, shuffled, normal(recipe), "cpu")
    return {
        "in order": recipe.task.scores(verdict.outputs).figures["accuracy"],
        "shuffled": recipe.task.scores(mixed).figures["accuracy"],
    }


def task() -> Video:
    """What all arms are for: whole clips, seen once."""
    return Video(frames=FRAMES, stride=1, views=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="?", default="fashion-sample")
    parser.add_argument("--out", type=Path, default=Path("bench-run/order"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--clips", type=int, default=2400)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], help="fewer networks")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for arm, config in ARMS.items():
        print(arm, counted(config), flush=True)
    folder = asked.out / f"clips-{asked.clips}"
    if not (folder / "whole").is_file():
        write(asked.data, folder / "clips", asked.clips)
        (folder / "whole").touch()
    clips = read(Data(str(folder / "clips")), Hardware("cpu"), View(), task())
    found = finished(
        asked.out / "order.json", asked.arms, asked.seeds,
        lambda arm, seed: trained(arm, seed, clips, asked.steps, asked.out),
    )  # fmt: skip
    told = table(found, BASE if BASE in found else asked.arms[0])
    (asked.out / "table.md").write_text(told)
    print(told)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
