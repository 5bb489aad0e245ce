"""A study: does OWL-ViT find kinds of things that it never learned, asked for by a picture of one?

    python bench/queries.py [--out FOLDER] [--seeds 3] [--steps 1200] [--test 200]

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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from arms import Figures, finished, table
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, box_convert, box_iou
from vitrail.objectives.parts.queried import Objects, federated, loss

import vitrail
from vitrail.data.batches import generator
from vitrail.data.builtin import BUILTIN
from vitrail.data.composites import DARK, Composites, compose
from vitrail.data.decode import resize
from vitrail.data.mosaics import Tile, mosaic, side
from vitrail.models.owl_vit import CLIP, Config, Text, Vision

SIDE, BATCH, MOST, OVERLAP = 64, 16, 4, 0.5
HELD_OUT = (1, 8)
ARMS = ("all kinds", "federated", "federated, mosaics")
BASE = "federated"
# Pictures by which a kind is asked for, and how many boxes of an image are looked at.
SHOWN, KEPT = 5, 100


class Kinds(NamedTuple):
    """The garments of each kind, uint8 (N, 28, 28), the names, and sentences as ids (K, length)."""

    cutouts: Sequence[np.ndarray]
    names: tuple[str, ...]
    sentences: Tensor


def kinds_of(part: str) -> Kinds:
    """Return the garments of a part of the bundled sample."""
    source = BUILTIN["fashion-sample"](None)
    assert source.pixels is not None
    rows = [at for at, item in enumerate(source.items) if item.part == part]
    labels = np.array([source.items[at].label for at in rows])
    known = sorted({word for name in source.classes for word in name.casefold().split()})
    begin, end = len(known) + 1, len(known) + 2
    ids = torch.zeros(len(source.classes), 8, dtype=torch.long)
    for row, name in zip(ids, source.classes, strict=True):
        some = [begin, *(known.index(word) + 1 for word in name.casefold().split()), end]
        row[: len(some)] = torch.tensor(some)
    cutouts = [source.pixels[rows][labels == label] for label in range(len(source.classes))]
    return Kinds(cutouts, source.classes, ids)


def drawn(kinds: Kinds, allowed: Sequence[int], most: int, random: np.random.Generator) -> Tile:
    """Draw a picture of one to `most` garments of some kinds, and the box of each."""
    canvas, _ = compose(kinds.cutouts, Composites(1, (SIDE, SIDE), least=0, most=0), random)
    boxes, found = [], []
    for _ in range(int(random.integers(1, most + 1))):
        kind = int(random.choice(allowed))
        garment = kinds.cutouts[kind][random.integers(len(kinds.cutouts[kind]))]
        wide = round(28 * random.uniform(0.7, 1.2))
        values = np.asarray(Image.fromarray(garment).resize((wide, wide)), np.float32)
        top, left = (int(n) for n in random.integers(0, SIDE - wide + 1, 2))
        tint = random.uniform(0.35, 1.0, 3).astype(np.float32)
        shown = values >= DARK
        if not shown.any():
            continue
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        corners = torch.tensor([[
            left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1,
        ]]) / SIDE  # fmt: skip
        if boxes and box_iou(corners, torch.cat(boxes)).max() > 0.2:
            continue
        canvas[top : top + wide, left : left + wide][shown] = values[shown][:, None] * tint
        boxes.append(corners)
        found.append(kind)
    shares = box_convert(torch.cat(boxes), "xyxy", "cxcywh").numpy()
    return Tile(canvas, shares, np.array(found, np.int64))


def annotated(tile: Tile, learned: Sequence[int], random: np.random.Generator) -> Tile:
    """Return a picture of which half of the kinds are annotated: the others' boxes are left out."""
    told = set(random.permutation(learned)[: len(learned) // 2].tolist())
    kept = np.isin(tile.kinds, list(told))
    absent = frozenset(told - set(tile.kinds.tolist()))
    return Tile(tile.image, tile.boxes[kept], tile.kinds[kept], absent)


def example(arm: str, kinds: Kinds, learned: Sequence[int], random: np.random.Generator):
    """Return a training picture, the kinds that it is asked for, and its objects."""
    sides = side(random) if arm.endswith("mosaics") else 1
    tiles = [
        annotated(drawn(kinds, learned, MOST, random), learned, random) for _ in range(sides**2)
    ]
    tile = mosaic(tiles)
    image = resize(tile.image[None], (SIDE, SIDE))[0]
    even = np.zeros(len(kinds.names))
    even[list(learned)] = 1
    asked = np.array(learned)
    if arm.startswith("federated"):
        shown = sorted(set(tile.kinds.tolist()))
        asked = federated(shown, sorted(tile.absent), even, random, least=1, most=len(learned))
    labels = torch.from_numpy(tile.kinds[:, None] == asked[None]).float()
    return image, asked, Objects(torch.from_numpy(tile.boxes).float(), labels)


def normalised(images: np.ndarray) -> Tensor:
    """Return uint8 (B, H, W, 3) as the network takes them."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (CLIP.mean, CLIP.std))
    return (x - mean) / std


def learned_by(arm: str, seed: int, steps: int, kinds: Kinds, learned: Sequence[int]):
    """Train a small OWL-ViT by an arm to its end."""
    torch.manual_seed(seed)
    words = Text(int(kinds.sentences.max()) + 1, kinds.sentences.shape[1], 64, 2, 4, 128)
    model = vitrail.create(Config(Vision(96, 4, 4, 192, 8), words, 64, image=(SIDE, SIDE))).train()
    free = model.no_decay()
    groups = [
        {"params": [p for n, p in model.named_parameters() if (n in free) is bare],
         "weight_decay": 0.0 if bare else 0.01}
        for bare in (True, False)
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps + 1)
    for step in range(steps):
        random = generator(seed, step)
        images, asked, objects = zip(
            *(example(arm, kinds, learned, random) for _ in range(BATCH)), strict=True
        )
        tokens = torch.zeros(BATCH, max(map(len, asked)), *kinds.sentences.shape[1:]).long()
        for row, some in zip(tokens, asked, strict=True):
            row[: len(some)] = kinds.sentences[torch.from_numpy(some)]
        wide = [
            Objects(one.boxes, torch.nn.functional.pad(one.labels, (0, tokens.shape[1] - n)))
            for one, n in zip(objects, map(len, asked), strict=True)
        ]
        told = loss(model(normalised(np.stack(images)), tokens), wide, tokens[..., 0] > 0)["loss"]
        optimizer.zero_grad()
        told.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
    return model.eval()


def pictured(model, kinds: Kinds, seed: int) -> Tensor:
    """Return an embedding of each kind by some pictures of one garment each: (K, width)."""
    found = []
    for kind in range(len(kinds.names)):
        each = []
        for at in range(SHOWN):
            tile = drawn(kinds, [kind], 1, generator(seed, 7, kind, at))
            box = box_convert(torch.from_numpy(tile.boxes[0]), "cxcywh", "xyxy").float()
            each.append(model.query_of(normalised(tile.image[None]), box))
        found.append(torch.stack(each).mean(0))
    return torch.stack(found)


def precisions(model, queries: Tensor, tiles: Sequence[Tile]) -> list[float]:
    """Return the average precision of each query, in all pictures, at an overlap of a half."""
    scores: list[list[float]] = [[] for _ in queries]
    right: list[list[bool]] = [[] for _ in queries]
    for tile in tiles:
        found = model.find(normalised(tile.image[None]), queries[None])
        corners = box_convert(found.boxes[0], "cxcywh", "xyxy")
        truth = box_convert(torch.from_numpy(tile.boxes).float(), "cxcywh", "xyxy")
        for kind, logits in enumerate(found.logits[0].T):
            kept = batched_nms(corners, logits.sigmoid(), torch.zeros(len(logits)), 0.5)[:KEPT]
            own, taken = truth[torch.from_numpy(tile.kinds) == kind], set()
            for at in kept.tolist():
                scores[kind].append(float(logits[at]))
                overlaps = box_iou(corners[at : at + 1], own)[0] if len(own) else torch.zeros(0)
                best = int(overlaps.argmax()) if len(own) else -1
                hit = best >= 0 and overlaps[best] >= OVERLAP and best not in taken
                right[kind].append(bool(hit))
                if hit:
                    taken.add(best)
    totals = np.bincount(np.concatenate([tile.kinds for tile in tiles]), minlength=len(queries))
    return [
        precision(np.array(s), np.array(r), int(n))
        for s, r, n in zip(scores, right, totals, strict=True)
    ]


def precision(scores: np.ndarray, right: np.ndarray, total: int) -> float:
    """Return the area under precision over recall, precision being the best at that recall or more.

    Examples:
        >>> precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 2)
        0.8333333333333333
    """
    hits = right[np.argsort(-scores, kind="stable")].cumsum()
    at_best = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    gained = np.diff(hits, prepend=0) > 0
    return float(at_best[gained].sum() / max(1, total))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench-run/queries"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--test", type=int, default=200)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    kinds, held_back = kinds_of("train"), kinds_of("test")
    everything = range(len(kinds.names))
    learned = [kind for kind in everything if kind not in HELD_OUT]
    tiles = [drawn(held_back, everything, MOST, generator(99, n)) for n in range(asked.test)]

    @torch.no_grad()
    def judged(model, seed: int) -> Figures:
        figures = {}
        ways = {"words": model.queries(kinds.sentences), "pictures": pictured(model, kinds, seed)}
        for way, queries in ways.items():
            found = precisions(model, queries, tiles)
            for name, some in (("known", learned), ("held out", HELD_OUT)):
                figures[f"{name}, by {way}"] = float(np.mean([found[kind] for kind in some]))
        return figures

    def train(arm: str, seed: int) -> Figures:
        return judged(learned_by(arm, seed, asked.steps, kinds, learned), seed)

    found = finished(asked.out / "queries.json", [*ARMS], asked.seeds, train)
    told = table(found, BASE)
    (asked.out / "table.md").write_text(told)
    print(told)


if __name__ == "__main__":
    main()
