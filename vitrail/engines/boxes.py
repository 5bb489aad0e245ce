"""The end of an exported detector: from boxes and scores at every place to those that are left.

Of each class the boxes that no surer one overlaps are kept (`NonMaxSuppression`), in pixels of the
image that was given. A file is accepted only where it finds what the model does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.errors import ExportError
from vitrail.measure.session import session

# Whoever asks an exported file imports no torch, which takes seconds.
if TYPE_CHECKING:
    from torch import nn

# What a box and its match have in common, and how far their scores may differ.
ALIKE, TOLERANCE = 0.99, 1e-3
# Of so many boxes one may be missing: rounding decides where two overlap by just half.
MATCHED = 0.999
# So many held-back images are compared at other sizes than the model's too.
RESIZED = 8
OUTPUTS = ("boxes", "scores", "labels", "image")


class Found(NamedTuple):
    """The objects found in one image: boxes (n, 4) in its pixels, scores (n,) and classes (n,)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def append(graph: Any) -> None:
    """Replace the outputs "shares" (B, N, 4) and "probabilities" (B, N, K) of a graph by "boxes"
    (n, 4), float32 in pixels of "images", "scores" (n,), "labels" and "image" (n,), int64."""
    from onnx import TensorProto, helper

    from vitrail.layers.boxes import LEAST_SCORE, MOST_BOXES, MOST_OVERLAP

    numbers = {
        "most": (TensorProto.INT64, [1], [MOST_BOXES]),
        "overlap": (TensorProto.FLOAT, [1], [MOST_OVERLAP]),
        "least": (TensorProto.FLOAT, [1], [LEAST_SCORE]),
        "zero": (TensorProto.INT64, [1], [0]),
        "one": (TensorProto.INT64, [1], [1]),
        "two": (TensorProto.INT64, [1], [2]),
        "columns": (TensorProto.INT64, [2], [0, 2]),
        "rows": (TensorProto.INT64, [4], [1, 0, 1, 0]),
    }
    graph.initializer.extend(
        helper.make_tensor(f"back.{name}", *told) for name, told in numbers.items()
    )

    def node(kind: str, inputs: Sequence[str], output: str, **options: Any) -> None:
        graph.node.append(helper.make_node(kind, list(inputs), [output], **options))

    node("Transpose", ["probabilities"], "back.by_class", perm=[0, 2, 1])
    node(
        "NonMaxSuppression",
        ["shares", "back.by_class", "back.most", "back.overlap", "back.least"], "back.chosen",
    )  # fmt: skip
    for name, at in (("image", "zero"), ("labels", "one"), ("back.place", "two")):
        node("Gather", ["back.chosen", f"back.{at}"], f"back.{at}.column", axis=1)
        node("Squeeze", [f"back.{at}.column", "back.one"], name)
    node("Gather", ["back.chosen", "back.columns"], "back.where", axis=1)
    node("GatherND", ["shares", "back.where"], "back.shares")
    node("GatherND", ["back.by_class", "back.chosen"], "scores")
    node("Shape", ["images"], "back.sides", start=1, end=3)
    node("Gather", ["back.sides", "back.rows"], "back.corner", axis=0)
    node("Cast", ["back.corner"], "back.pixels", to=TensorProto.FLOAT)
    node("Mul", ["back.shares", "back.pixels"], "boxes")
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT64)
    graph.ClearField("output")
    graph.output.extend(
        helper.make_tensor_value_info(name, kind, ["found", 4] if name == "boxes" else ["found"])
        for name, kind in zip(OUTPUTS, kinds, strict=True)
    )


def ask(running: Any, images: np.ndarray) -> list[Found]:
    """Return what a file finds in each of uint8 (B, h, w, C)."""
    boxes, scores, labels, image = (
        np.asarray(one) for one in running.run(list(OUTPUTS), {"images": images})
    )
    return [
        Found(boxes[image == at], scores[image == at], labels[image == at])
        for at in range(len(images))
    ]


def found_by(model: nn.Module, labels: Labels) -> Callable[[np.ndarray], Found]:
    """Return what finds boxes in an image, uint8 (h, w, C) of any size, by a detector itself."""
    import torch

    from vitrail.layers.boxes import best

    def found(image: np.ndarray) -> Found:
        small = resize(image[None], labels.image)
        with torch.inference_mode():
            [one] = best(model.answers(model(labels.normalised(small))))  # pyright: ignore
        height, width = image.shape[:2]
        sides = torch.tensor([width, height, width, height])
        return Found((one.boxes * sides).numpy(), one.scores.numpy(), one.labels.numpy())

    return found


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return intersection over union (n, m) of boxes (n, 4) and (m, 4)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [np.prod(some[:, 2:] - some[:, :2], axis=1) for some in (one, other)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


@dataclass(frozen=True)
class Near:
    """The likeness by which two boxes are taken for the same: their overlap, and how far their
    scores may differ."""

    overlap: float
    score: float


EQUAL = Near(ALIKE, TOLERANCE)
# A resize may differ by 1 of 255, so that at other sizes less is asked: that boxes are scaled.
RESIZED_ALIKE, RESIZED_MATCHED = Near(0.9, 0.02), 0.9


def unmatched(ours: Found, theirs: Found, near: Near = EQUAL) -> tuple[int, float]:
    """Return how many boxes of two answers have no equal in the other, and the largest difference
    of a score between equal ones. Those that are hardly above the least score need none."""
    from vitrail.layers.boxes import LEAST_SCORE

    sure = [one.scores > LEAST_SCORE + near.score for one in (ours, theirs)]
    if not len(ours.scores) or not len(theirs.scores):
        return int(sure[0].sum() + sure[1].sum()), 0.0
    apart = np.abs(ours.scores[:, None] - theirs.scores[None])
    alike = overlaps(ours.boxes, theirs.boxes) >= near.overlap
    alike &= ours.labels[:, None] == theirs.labels[None]
    same = alike & (apart <= near.score)
    missing = (sure[0] & ~same.any(1)).sum() + (sure[1] & ~same.any(0)).sum()
    return int(missing), float(apart[same].max(initial=0.0))


def compare(
    model: nn.Module,
    labels: Labels,
    path: Path,
    images: np.ndarray,
    advance: Callable[[int], None] = lambda n: None,
) -> float:
    """Return the largest difference of a score between a detector and its file that find the same.

    `images` are uint8 (N, H, W, C) at the model's size; some are given all at once as well, and
    some larger. Raises ExportError where more than one box of a thousand has no equal: of the same
    class, overlapping by 0.99, with a score within 1e-3.
    """
    running, (height, width) = session(path), labels.image
    own, together = found_by(model, labels), ask(running, images[:RESIZED])
    total = missing = 0
    largest = 0.0
    for at, image in enumerate(images):
        ours = own(image)
        others = [*ask(running, image[None]), *together[at : at + 1]]
        for theirs in others:
            lost, apart = unmatched(ours, theirs)
            total, missing = total + len(ours.scores) + len(theirs.scores), missing + lost
            largest = max(largest, apart)
        advance(1)
    _require(total, missing, MATCHED, f"on {len(images)} images", EQUAL)
    if isinstance(running.get_inputs()[0].shape[1], str):
        larger = resize(images[:RESIZED], (2 * height + 3, width + 5))
        pairs = [(own(image), ask(running, image[None])[0]) for image in larger]
        lost = sum(unmatched(*pair, RESIZED_ALIKE)[0] for pair in pairs)
        every = sum(len(one.scores) for pair in pairs for one in pair)
        _require(every, lost, RESIZED_MATCHED, "on larger images", RESIZED_ALIKE)
    return largest


def _require(total: int, missing: int, least: float, where: str, near: Near) -> None:
    if missing > (1 - least) * total:
        raise ExportError(
            f"the exported file does not find what the model does: of {total:,} boxes {where} "
            f"{missing:,} have no equal (overlap {near.overlap}, scores within {near.score:g})"
        )
