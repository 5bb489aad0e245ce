"""What a network that is asked in words finds in a part, as boxes in pixels of each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.data.boxes import Boxes
from vitrail.data.cache import Pixels
from vitrail.data.captions import captions_of
from vitrail.data.queries import QueryBatches, absent
from vitrail.models.owl_vit import OwlViT
from vitrail.models.parts.query_losses import loss, objects_of
from vitrail.tasks import finding
from vitrail.tasks.detection import padded
from vitrail.tasks.finding import Finds
from vitrail.tasks.pairing import in_words
from vitrail.training.device import open_fabric

# Boxes of one query that overlap by more show one object.
OVERLAP = 0.5
# Of so many answers of an image the doubles are left out, and so many are kept.
LIKELIEST, KEPT = 300, 100


@dataclass(frozen=True, eq=False)
class Queried(Finds):
    """What is found in every image, and of which classes it was learned: those in `known`."""

    known: tuple[int, ...] = ()


def boxes_in(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], *, least: float = 0.0,
    most: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return corners (n, 4) in pixels of a picture (height, width), scores and queries (n,) of what
    is found, the likeliest first.

    `boxes` (N, 4) are (cx, cy, w, h) in shares of its square, `scores` (N, Q); those below `least`
    are left out, and all but the `most` likeliest; of boxes of a query that overlap one is taken.
    """
    from torchvision.ops import batched_nms, box_convert

    rows, queries = (scores >= least).nonzero(as_tuple=True)
    some = scores[rows, queries]
    if most is not None and len(some) > most:
        some, at = some.topk(most)
        rows, queries = rows[at], queries[at]
    height, width = size
    corners = box_convert(boxes, "cxcywh", "xyxy")[rows] * max(height, width)
    corners[:, 0::2] = corners[:, 0::2].clamp(0, width)
    corners[:, 1::2] = corners[:, 1::2].clamp(0, height)
    inside = (corners[:, 2:] - corners[:, :2] >= 1).all(1)
    corners, some, queries = corners[inside], some[inside], queries[inside]
    kept = batched_nms(corners, some, queries, OVERLAP)
    return corners[kept], some[kept], queries[kept]


@torch.no_grad()
def named(model: OwlViT, pixels: Pixels, prompts: Sequence[str], device: Any) -> Tensor:
    """Return an embedding (K, width) of each class in words, the mean of `prompts`."""
    fabric, words = open_fabric(device), captions_of(pixels).words
    network = fabric.to_device(model.eval())
    assert isinstance(network, OwlViT)

    def embed(sentences: list[str]) -> Tensor:
        with fabric.autocast():
            return network.queries(torch.from_numpy(words(sentences)).to(fabric.device)).float()

    return in_words(pixels.classes, prompts, embed)


@torch.no_grad()
def asked(
    model: OwlViT, batches: QueryBatches, queries: Tensor, learned: np.ndarray, device: Any
) -> Queried:
    """Ask about all images for all their classes by an embedding (K, width) of each.

    `learned` bool (K,) are those that the loss is of. What was not looked for in an image is not
    asked of it.
    """
    fabric, pixels = open_fabric(device), batches.pixels
    network, queries = fabric.to_device(model.eval()), fabric.to_device(queries)
    assert isinstance(network, OwlViT)
    known = torch.from_numpy(np.flatnonzero(learned)).to(fabric.device)
    truths, found, total = finding.truths(pixels), [], 0.0
    for batch in batches.iterate(0, stop=batches.steps_per_epoch):
        here = batch.to(fabric.device)
        with fabric.autocast():
            seen = network.find(here.images, queries.expand(len(here), -1, -1))
        seen = seen._replace(boxes=seen.boxes.float(), logits=seen.logits.float())
        objects = objects_of(here.targets, len(known))
        terms = loss(seen._replace(logits=seen.logits[..., known]), objects)
        total += float(terms["loss"]) * len(here)
        for row, at in enumerate(batch.indices.tolist()):
            scores = seen.logits[row].sigmoid().cpu()
            if (truth := truths[at]).absent is not None:
                every = np.ones(len(learned), bool)
                looked = {*truth.classes, *absent(truth, every)}
                scores[:, [kind for kind in range(len(learned)) if kind not in looked]] = -1.0
            size = truth.size or (1, 1)
            told = boxes_in(seen.boxes[row].cpu(), scores, size, most=LIKELIEST)
            found.append(np.column_stack([one.double().numpy()[:KEPT] for one in told]))
    truth = torch.from_numpy(Boxes(tuple(truths)).padded(range(len(truths)))).float()
    mean = total / max(1, len(found))
    return Queried(
        padded(found), truth, mean, len(pixels.classes), known=tuple(known.tolist())
    )  # fmt: skip
