"""The end of an exported detector: from boxes and scores at every place to those that are left.

Of each class the boxes that no surer one overlaps are kept (`NonMaxSuppression`), in pixels of the
image that was given. A detector of two stages has chosen already, and what fills up its rows is
left out. A file is accepted only where it finds what the model does (`box_agreement`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vitrail.data.decode import resize
from vitrail.data.labels import Labels

# Whoever asks an exported file imports no torch, which takes seconds.
if TYPE_CHECKING:
    from torch import nn

OUTPUTS = ("boxes", "scores", "labels", "image")
# What a detector with masks has besides, before and after those of empty rows are left out.
INSIDE, MASKS = "inside", "masks"


# Pixels of deviation 1 are changed by so much where rounding is imitated.
ROUNDING = 1e-5


class Found(NamedTuple):
    """The objects found in one image: boxes (n, 4) in its pixels, scores (n,) and classes (n,), and
    where there are masks, how likely each place of a box is the object's (n, side, side)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


class _Back:
    """The nodes that are added to the end of a graph, with numbers by their names."""

    def __init__(self, graph: Any, numbers: Mapping[str, tuple[int, list[int], list[Any]]]) -> None:
        from onnx import helper

        self.graph, self.make = graph, helper.make_node
        graph.initializer.extend(
            helper.make_tensor(f"back.{name}", *told) for name, told in numbers.items()
        )

    def node(self, kind: str, inputs: Sequence[str], output: str, **options: Any) -> None:
        self.graph.node.append(self.make(kind, list(inputs), [output], **options))

    def column(self, rows: str, at: str, output: str) -> None:
        """Add a column of (n, k), whose number is that called `at`: (n,)."""
        self.node("Gather", [rows, f"back.{at}"], f"back.{at}.column", axis=1)
        self.node("Squeeze", [f"back.{at}.column", "back.one"], output)


def append(graph: Any) -> None:
    """Replace the outputs of a graph by "boxes" (n, 4), float32 in pixels of "images", "scores"
    (n,), "labels" and "image" (n,), int64.

    Outputs are "shares" (B, N, 4) and "probabilities" (B, N, K), or, where the graph has chosen,
    (B, N) beside "kinds" (B, N) and perhaps "inside" (B, N, h, w), of which "masks" (n, h, w) are
    left.
    """
    from onnx import TensorProto, helper

    from vitrail.layers.boxes import LEAST_SCORE, MOST_BOXES, MOST_OVERLAP

    numbers = {
        "most": (TensorProto.INT64, [1], [MOST_BOXES]),
        "overlap": (TensorProto.FLOAT, [1], [MOST_OVERLAP]),
        "least": (TensorProto.FLOAT, [1], [LEAST_SCORE]),
        "nothing": (TensorProto.FLOAT, [1], [0.0]),
        "zero": (TensorProto.INT64, [1], [0]),
        "one": (TensorProto.INT64, [1], [1]),
        "two": (TensorProto.INT64, [1], [2]),
        "columns": (TensorProto.INT64, [2], [0, 2]),
        "rows": (TensorProto.INT64, [4], [1, 0, 1, 0]),
    }
    there, back = [one.name for one in graph.output], _Back(graph, numbers)
    (_chosen if "kinds" in there else _best)(back)
    back.node("GatherND", ["shares", "back.where"], "back.shares")
    back.node("Shape", ["images"], "back.sides", start=1, end=3)
    back.node("Gather", ["back.sides", "back.rows"], "back.corner", axis=0)
    back.node("Cast", ["back.corner"], "back.pixels", to=TensorProto.FLOAT)
    back.node("Mul", ["back.shares", "back.pixels"], "boxes")
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT64)
    made = [
        helper.make_tensor_value_info(name, kind, ["found", 4] if name == "boxes" else ["found"])
        for name, kind in zip(OUTPUTS, kinds, strict=True)
    ]
    if INSIDE in there:
        back.node("GatherND", [INSIDE, "back.where"], MASKS)
        [own] = [one.type.tensor_type.shape.dim[2:] for one in graph.output if one.name == INSIDE]
        sides = ["found", *(one.dim_value for one in own)]
        made.append(helper.make_tensor_value_info(MASKS, TensorProto.FLOAT, sides))
    graph.ClearField("output")
    graph.output.extend(made)


def _best(back: _Back) -> None:
    """Add what keeps of each class the boxes that no surer one overlaps: (image, place) of each."""
    back.node("Transpose", ["probabilities"], "back.by_class", perm=[0, 2, 1])
    back.node(
        "NonMaxSuppression",
        ["shares", "back.by_class", "back.most", "back.overlap", "back.least"], "back.chosen",
    )  # fmt: skip
    for name, at in (("image", "zero"), ("labels", "one")):
        back.column("back.chosen", at, name)
    back.node("Gather", ["back.chosen", "back.columns"], "back.where", axis=1)
    back.node("GatherND", ["back.by_class", "back.chosen"], "scores")


def _chosen(back: _Back) -> None:
    """Add what keeps all that has a score: (image, place) of each."""
    back.node("Greater", ["probabilities", "back.nothing"], "back.sure")
    back.node("NonZero", ["back.sure"], "back.found")
    back.node("Transpose", ["back.found"], "back.where", perm=[1, 0])
    back.column("back.where", "zero", "image")
    back.node("GatherND", ["kinds", "back.where"], "labels")
    back.node("GatherND", ["probabilities", "back.where"], "scores")


def ask(running: Any, images: np.ndarray) -> list[Found]:
    """Return what a file finds in each of uint8 (B, h, w, C)."""
    masked = any(one.name == MASKS for one in running.get_outputs())
    names = [*OUTPUTS, *([MASKS] if masked else [])]
    told = dict(zip(names, map(np.asarray, running.run(names, {"images": images})), strict=True))
    every = [told["image"] == at for at in range(len(images))]
    return [
        Found(
            told["boxes"][own], told["scores"][own], told["labels"][own],
            told[MASKS][own] if masked else None,
        )
        for own in every
    ]  # fmt: skip


def found_by(model: nn.Module, labels: Labels) -> Callable[..., Found]:
    """Return what finds boxes in an image, uint8 (h, w, C) of any size, by a detector itself.

    Where it is also given a number, the normalised pixels are changed by about `size`, as that
    number draws it: by default as much as rounding would.
    """
    import torch

    def found(image: np.ndarray, number: int | None = None, size: float = ROUNDING) -> Found:
        pixels = labels.normalised(resize(image[None], labels.image))
        if number is not None:
            random = torch.Generator().manual_seed(number)
            pixels = pixels + size * torch.randn(pixels.shape, generator=random)
        with torch.inference_mode():
            [one] = model.found(model(pixels))  # pyright: ignore
        height, width = image.shape[:2]
        sides = torch.tensor([width, height, width, height])
        masks = None if one.masks is None else one.masks.numpy()
        return Found((one.boxes * sides).numpy(), one.scores.numpy(), one.labels.numpy(), masks)

    return found
