"""Does the light recipe for robust transformers beat the canonical one under attack?

    python bench/robust.py DATA [--seeds 3] [--steps 1200] [--arms light,canonical] [--docs FILE]

DATA is what `vitrail fit` takes, small colour images. A small XCiT with patches of 8 pixels is
trained by `robust_light`, by `robust_canonical` and by the light recipe without attacks, with the
same seeds, steps and rate. Every model is judged on the same test images as they are and under
PGD-20 and Auto-PGD; a finished training is not repeated, so a stopped study goes on. With --docs
the page is written there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vitrail.attacks.suite import attacked, ball_of, suite
from vitrail.jobs.stress import sample
from vitrail.jobs.wish import completed, wished
from vitrail.layers.normal import Normal
from vitrail.proportions import wilson
from vitrail.recipes.recipe import Data
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.view import View
from vitrail.study.effect import Effect, effects

MODEL = [
    "model=xcit_nano_12_p16", "model.dim=64", "model.depth=3", "model.strides=[2,2,2]",
    "model.tokens_norm=true", "model.image=32,32",
]  # fmt: skip
PLAIN = ["objective=cross_entropy"]
ARMS: Mapping[str, list[str]] = {
    "light": ["recipe=robust_light"],
    "canonical": ["recipe=robust_canonical"],
    "without attacks": ["recipe=robust_light", *PLAIN],
}
BASE, BALL = "canonical", "linf:4/255"


def trained(arm: str, seed: int, asked: Any, images: Read, out: Path) -> dict[str, float]:
    """Train an arm and return the shares of test images that it answers rightly, by attack."""
    kept = out / f"{arm}-{seed}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    settings = [
        *ARMS[arm], *MODEL, f"data={asked.data}", f"seed={seed}", f"steps.batch={asked.batch}",
        f"steps.total={asked.steps}", f"optimizer.lr={asked.rate}",
    ]  # fmt: skip
    recipe, _ = completed(wished(settings), images.workshop)
    outcome = images.workshop.train(recipe, out / f"{arm}-{seed}", recipe.steps.total)
    verdict = judge(outcome.best, recipe, images.workshop.split.test, images.workshop)
    some = sample(verdict.pixels, asked.images)
    pixels = torch.from_numpy(some.take(range(len(some)))).permute(0, 3, 1, 2) / 255
    truth, normal = torch.from_numpy(some.labels), Normal(recipe.data.mean, recipe.data.std)
    model = outcome.best.eval().requires_grad_(False)
    found = {"clean": recipe.task.scores(verdict.outputs).main}
    withstood = []
    attacks = suite(ball_of(BALL), len(images.workshop.split.classes), asked.iterations)
    for name, attack in attacks.items():

        def answer(moved: torch.Tensor) -> torch.Tensor:
            return model(normal.apply(moved))

        withstood.append(torch.from_numpy(attacked(answer, pixels, truth, attack)[0]))
        found[name] = withstood[-1].double().mean().item()
    found["all attacks"] = torch.stack(withstood).all(0).double().mean().item()
    kept.write_text(json.dumps(found))
    return found


def page(found: Mapping[str, Sequence[Mapping[str, float]]], asked: Any, images: Read) -> str:
    """Return the page in Markdown."""
    split = images.workshop.split
    names = list(found[BASE][0])
    tested = min(asked.images, len(split.test))
    width = max(one.high - one.low for one in [wilson(tested // 2, tested)]) / 2
    lines = [
        "# The light recipe under attack",
        "",
        f"An XCiT of width 64, depth 3, 4 heads and patches of 8 pixels, {asked.steps:,} steps of "
        f"{asked.batch} images, {asked.seeds} seeds, learning rate {asked.rate:g} everywhere. "
        f"{len(split.train):,} training images and {len(split.test):,} test images of 32x32 "
        f"pixels; {tested:,} of the latter are attacked ({BALL}), "
        f"Auto-PGD with {asked.iterations} iterations. {asked.said}",
        "",
        "Mean share of right answers over the seeds; after it, in brackets, that of each seed:",
        "",
        "| recipe | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for arm, seeds in found.items():
        cells = []
        for name in names:
            each = [100 * one[name] for one in seeds]
            cells.append(f"{sum(each) / len(each):.1f} ({', '.join(f'{v:.1f}' for v in each)})")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", f"Difference from the {BASE} recipe in points, with the 95 % interval of a",
              "two-way layout of recipe and seed that holds for all recipes together:", "",
              "| recipe | clean | all attacks |", "| --- | --- | --- |"]  # fmt: skip
    gaps = {
        name: effects({arm: [one[name] for one in seeds] for arm, seeds in found.items()}, BASE)
        for name in ("clean", "all attacks")
    }
    for arm in found:
        if arm != BASE:
            lines.append(f"| {arm} | " + " | ".join(_said(gaps[n][arm]) for n in gaps) + " |")
    lines += ["", f"An interval of one share of {tested:,} images is up to ±{100 * width:.1f}",
              "points, beside what seeds change.", ""]  # fmt: skip
    return "\n".join(lines)


def _said(effect: Effect) -> str:
    if effect.low is None or effect.high is None:
        return f"{100 * effect.mean:+.1f}"
    mark, ends = "**" if effect.clear else "", (100 * effect.low, 100 * effect.high)
    return f"{mark}{100 * effect.mean:+.1f}{mark} ({ends[0]:+.1f} to {ends[1]:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare robust recipes under attack.")
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--arms", default=",".join(ARMS), help="names, with commas between")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=100, help="of Auto-PGD")
    parser.add_argument("--out", type=Path, default=Path("bench-run/robust"))
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--said", default="", help="a sentence on the data, for the page")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    images = read(Data(asked.data), Hardware("cpu"), View())
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(asked.seeds):
        for arm in asked.arms.split(","):
            one = trained(arm, seed, asked, images, asked.out)
            found.setdefault(arm, []).append(one)
            print(arm, seed, {name: round(value, 4) for name, value in one.items()}, flush=True)
    text = page(found, asked, images)
    (asked.docs or asked.out / "page.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
