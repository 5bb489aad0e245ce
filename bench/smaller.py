"""What ways to make a model smaller are worth at equal size and equal epochs, over seeds.

    python bench/smaller.py PHOTOS [--out FOLDER] [--seeds 3] [--epochs 10] [--tuning 4]

PHOTOS is a folder of classes, such as some thousand images of CIFAR-10. A small ViT is trained on
it once for `--epochs`; then, for every seed and `--tuning` epochs:

    up        pruned by importance to half of its multiply-adds and tuned
    magnitude pruned by the size of weights to the same, and tuned
    uvc       what goes is learned with the weights (a fifth of the training's epochs), and tuned
    skip      the half of the blocks goes that images of the training miss least, and tuned
    small     the shape that `up` has, trained from the start for all epochs of both together
    privit    a quarter of GELUs and softmaxes, learned
    random    as many, drawn by a coin

All are judged on the validation part. Accuracies go to FOLDER/smaller.json, which is written after
each training; what is in it is not trained again. Printed are means, and differences of pairs with
their 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console

from vitrail import checkpoint
from vitrail.jobs.cutting import Asked, choose, proxy, tuned_recipe
from vitrail.jobs.learned import learned
from vitrail.jobs.limits import sized
from vitrail.jobs.switched import switched_recipe, wanted
from vitrail.jobs.train import train_recipe
from vitrail.methods.private_cost import LAN, operations
from vitrail.models.trunk.widths import Cut, sliced
from vitrail.objectives import CrossEntropy
from vitrail.run.before import Before, before, model_json
from vitrail.run.folder import RunFolder
from vitrail.run.reading import Hardware
from vitrail.run.view import View
from vitrail.run.workshop import Workshop
from vitrail.study.effect import effects
from vitrail.training.schedule import Schedule

MODEL = [
    "model=vit_ti16", "model.image=32,32", "model.patch=8", "model.dim=48", "model.depth=4",
    "model.heads=3", "model.hidden=192", "model.pool=mean", "steps.batch=64", "optimizer.lr=2e-3",
    "data.val=0.3", "data.test=0.05",
]  # fmt: skip
SHARE, SWITCHES = 0.5, "25%"
PAIRS = (
    ("up", "small"), ("up", "magnitude"), ("uvc", "up"), ("uvc", "magnitude"), ("uvc", "skip"),
    ("privit", "random"),
)  # fmt: skip
ASKED = 1000


def skipped(old: Before, workshop: Workshop) -> Cut:
    """Return the cut of half of the blocks without which a thousand images are told best."""
    data, depth = old.recipe.data, old.cuttable.config.depth
    images = workshop.pixels("train", data.image, data.channels).first(ASKED)
    pixels = old.labels.normalised(images.take(np.arange(len(images))))
    truth = torch.from_numpy(np.asarray(images.labels))

    @torch.inference_mode()
    def loss(without: tuple[int, ...]) -> float:
        model = sliced(old.cuttable, Cut(without=without)).eval()
        return F.cross_entropy(model(pixels), truth).item()

    return Cut(without=min(combinations(range(depth), depth // 2), key=loss))


def pruned(
    name: str, old: Before, workshop: Workshop, asked: Asked, run: RunFolder, view: View
) -> Any:
    """Return the recipe of a smaller model that is tuned."""
    if name == "skip":
        model, cut = old.cuttable, skipped(old, workshop)
    elif name == "uvc":
        model, cut = learned(old, asked, workshop, run, view)
    else:
        model = old.cuttable
        shape = sized(model.config, asked.limits).shape
        folder = run.path / "worth"
        cut = choose(model, shape, asked, proxy(old, workshop), folder, shown=False)
    smaller, start = sliced(model, cut), run.path / "start.safetensors"
    checkpoint.save(start, smaller.state_dict(), metadata={"config": model_json(smaller.config)})
    return tuned_recipe(old, smaller.config, start, asked, len(workshop.split.train))


def arm(name: str, seed: int, old: Before, workshop: Workshop, out: Path, options: Any) -> Any:
    """Train one arm; returns its accuracy and what it costs."""
    run, view = RunFolder(out / f"{name}-{seed}"), View(Console(quiet=True))
    run.path.mkdir(parents=True, exist_ok=True)
    macs = int(SHARE * old.subject.macs)
    gelus, softmaxes = wanted(old, SWITCHES, SWITCHES)
    switched = {"gelus": gelus, "softmaxes": softmaxes}
    limits: dict[str, Any] = switched if name in ("privit", "random") else {"macs": macs}
    method = "up" if name in ("small", "skip") else name
    asked = Asked(str(old.run.path), method, epochs=options.tuning, seed=seed, **limits)
    if name in ("privit", "random"):
        recipe = switched_recipe(old, asked, len(workshop.split.train))
    else:
        recipe = pruned(name, old, workshop, asked, run, view)
    if name == "small":
        total = old.recipe.steps.total + recipe.steps.total
        steps = replace(recipe.steps, total=total)
        recipe = replace(
            recipe, steps=steps, pretrained=None, keep_head=False, objective=CrossEntropy(),
            schedule=Schedule(total // 10),
        )  # fmt: skip
    outcome = workshop.train(recipe, run.path, recipe.steps.total)
    model, scores = workshop.better(outcome, recipe)
    told = {"accuracy": scores.main, "n": scores.n}
    return told | ({"lan_s": operations(model).latency_s(LAN)} if name in PAIRS[-1] else {})


def summary(found: dict[str, Any]) -> dict[str, str]:
    """Return mean and spread of each arm, and each pair's differences seed by seed."""
    names = sorted({key.split("-")[0] for key in found})
    by = {n: np.array([v["accuracy"] for k, v in sorted(found.items()) if k.startswith(f"{n}-")])
          for n in names}  # fmt: skip
    told = {n: f"{v.mean():.3f} ± {v.std(ddof=1):.3f} of {len(v)}" for n, v in by.items()
            if len(v) > 1}  # fmt: skip
    for one, other in PAIRS:
        if len(by.get(one, ())) == len(by.get(other, ())) > 1:
            (gap,) = effects({"base": list(by[other]), "this": list(by[one])}, "base").values()
            told[f"{one} - {other}"] = f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, default=Path("smaller-study"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--tuning", type=int, default=4)
    parser.add_argument("--arms", default="privit,random,up,small,uvc,magnitude,skip")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    base, file = options.out / "base", options.out / "smaller.json"
    if not (base / "result.json").is_file():
        images = sum(len(files) for _, _, files in os.walk(options.photos))
        total = options.epochs * int(0.65 * images) // 64
        words = [*MODEL, f"data={options.photos}", f"steps.total={total}"]
        words.append(f"schedule.warmup={total // 15}")
        known = base.is_dir()
        train_recipe(() if known else words, out=base, resume=known, threads=1, device="cpu")
    old = before(str(base), None)
    workshop = old.data(Hardware("cpu"), View(Console(quiet=True))).workshop
    found = json.loads(file.read_text()) if file.is_file() else {}
    for seed in range(options.seeds):
        for name in options.arms.split(","):
            if f"{name}-{seed}" in found:
                continue
            made = arm(name, seed, old, workshop, options.out, options)
            found[f"{name}-{seed}"] = made
            file.write_text(json.dumps(found, indent=1))
            print(name, seed, made, flush=True)
    for line in summary(found).items():
        print(*line)


if __name__ == "__main__":
    main()
