"""A study: does OWL-ViT find kinds of things that it never learned, asked for by a picture of one?

    python bench/queries.py [--out FOLDER] [--seeds 3] [--steps 1000] [--train 1500] [--test 200]

Composites are garments of the bundled sample, tinted and enlarged, on drawn canvases, so nothing
here says how good a network is on photographs. Two of the ten kinds are held out: no training
picture shows one. Of each training picture only half of the other kinds are annotated, as in data
that many people made. Arms differ in what a picture is asked for: all kinds, as if what is not
annotated were not there; or federated queries alone, what it is known to show or not to show and
some more that are drawn; or these on mosaics of up to nine pictures, too. Told is AP at an overlap
of a half, of known kinds asked for by words and by pictures, and of those held out; a word that was
never learned is the control. Results are in FOLDER/queries.json, a table beside them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from arms import Figures, finished, table
from boxed import cutouts, drawn, write
from torch import Tensor

import vitrail
from vitrail.data.batches import generator
from vitrail.data.mosaics import Tile
from vitrail.data.words import opened
from vitrail.jobs.train import train_recipe
from vitrail.layers.normal import Normal
from vitrail.models.owl_vit import CLIP, OwlViT
from vitrail.recipes.recipe import read
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware
from vitrail.run.reading import read as read_data
from vitrail.run.view import View
from vitrail.run.workshop import normal
from vitrail.tasks import OpenVocabulary, finding
from vitrail.tasks.queried import asked

SIDE, MOST = 40, 2
HELD_OUT, PARTS = (1, 8), ("train", "val", "test")
ARMS = {
    "all kinds": ["task.federated=false"],
    "federated": [],
    "federated, mosaics": ["task.mosaics=true"],
}
BASE = "federated"
# Pictures by which a kind is asked for.
SHOWN = 5
NETWORK = [
    "task=open_vocabulary", "model=owlvit_b32", f"model.image={SIDE},{SIDE}", "model.width=64",
    "model.tower.dim=64", "model.tower.depth=3", "model.tower.heads=4", "model.tower.hidden=128",
    "model.tower.patch=8", "model.text.dim=64", "model.text.depth=1", "model.text.heads=4",
    "model.text.hidden=128", "model.text.length=12", "steps.batch=16", "optimizer.lr=3e-3",
    "optimizer.weight_decay=0.01", "augment.scale=none",
]  # fmt: skip


def annotated(tile: Tile, learned: Sequence[int], random: np.random.Generator) -> Tile:
    """Return a picture of which half of the kinds are annotated: the others' boxes are left out."""
    told = set(random.permutation(learned)[: len(learned) // 2].tolist())
    kept = np.isin(tile.kinds, list(told))
    absent = frozenset(told - set(tile.kinds.tolist()))
    return Tile(tile.image, tile.boxes[kept], tile.kinds[kept], absent)


def composites(part: str, n: int, learned: Sequence[int]) -> Iterator[Tile]:
    """Draw the pictures of a part: those of the test alone show kinds that are held out, and of
    those to learn from half of the kinds are annotated."""
    kinds, names = cutouts("test" if part == "test" else "train")
    for at in range(n):
        random = generator(PARTS.index(part), at)
        tile = drawn(
            kinds, range(len(names)) if part == "test" else learned, random, side=SIDE, most=MOST
        )
        yield annotated(tile, learned, random) if part == "train" else tile


def pictured(model: OwlViT, seed: int) -> Tensor:
    """Return an embedding of each kind by some pictures of one garment each: (K, width)."""
    kinds, names = cutouts("train")
    look, found = Normal(CLIP.mean, CLIP.std), []
    for kind in range(len(names)):
        each = []
        for at in range(SHOWN):
            tile = drawn(kinds, [kind], generator(seed, 7, kind, at), side=SIDE, most=1)
            x = torch.from_numpy(tile.image).permute(2, 0, 1)[None].float() / 255
            box = torch.from_numpy(tile.boxes[0]).float() / SIDE
            each.append(model.query_of(look.apply(x), box))
        found.append(torch.stack(each).mean(0))
    return torch.stack(found)


@torch.no_grad()
def judged(run: Path, seed: int) -> Figures:
    """Return average precisions on the test part, where words ask and where pictures do."""
    recipe = read(run / "recipe.json")
    task = cast(OpenVocabulary, recipe.task)
    model = cast(OwlViT, vitrail.load(recipe.config, run / "weights.safetensors").eval())
    images = read_data(recipe.data, Hardware("cpu"), View(), task)
    captions = images.inspection.source.captions
    assert captions is not None
    captions.settle(opened(run / "tokenizer.json", recipe.config.text.length, pad=0))
    verdict = judge(model, recipe, images.workshop.split.test, images.workshop)
    learned = task.learned(verdict.pixels.classes)
    batches = task.watching(verdict.pixels, normal(recipe))
    by_pictures = asked(model, batches, pictured(model, seed), learned, "cpu")
    figures = {}
    for way, outputs in (("words", verdict.outputs), ("pictures", by_pictures)):
        told = finding.matches(outputs, len(learned))
        for name, wanted in (("known", True), ("held out", False)):
            some = {key: one for key, one in told.items() if learned[key[0]] == wanted}
            figures[f"{name}, by {way}"] = finding.mean_precision(some, overlap=0)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench-run/queries"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--test", type=int, default=200)
    wanted = parser.parse_args()
    data = wanted.out / "data"
    _, names = cutouts("train")
    learned = [kind for kind in range(len(names)) if kind not in HELD_OUT]
    if not (data / "instances_test.json").is_file():
        for part, n in (("train", wanted.train), ("val", 100), ("test", wanted.test)):
            write(data, part, composites(part, n, learned), names, told=part == "train")
    apart = json.dumps([names[kind] for kind in HELD_OUT])

    def train(arm: str, seed: int) -> Figures:
        words = [
            *NETWORK, *ARMS[arm], f"task.held_out={apart}", f"data={data}", f"seed={seed}",
            f"steps.total={wanted.steps}",
        ]  # fmt: skip
        run = train_recipe(words, out=wanted.out / f"{arm} {seed}", device="cpu", threads=1)
        return judged(run, seed)

    found = finished(wanted.out / "queries.json", [*ARMS], wanted.seeds, train)
    told = table(found, BASE)
    (wanted.out / "table.md").write_text(told)
    print(told)


if __name__ == "__main__":
    main()
