"""The end of an exported network of maps: from scores to the class of every pixel of the image.

The scores are enlarged to the size of the image that was given, bilinearly between centres of
pixels, and the likeliest class of each is taken. A file is accepted only where its masks are those
of the model, at the model's own size and at others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.errors import ExportError
from vitrail.measure.session import session

# Whoever asks an exported file imports no torch, which takes seconds.
if TYPE_CHECKING:
    from torch import Tensor, nn

# Rounding in another engine moves a pixel where two classes are as likely.
ALIKE, TOLERANCE = 0.999, 1e-4
# So many held-back images are compared at other sizes than the model's too.
RESIZED = 8


def append(graph: Any, labels: Labels) -> None:
    """Put "mask", uint8 (B, h, w) at the size of "images", before a graph's other outputs."""
    from onnx import TensorProto, helper

    constants = [helper.make_tensor("back.classes", TensorProto.INT64, [1], [len(labels.classes)])]
    graph.node.extend(
        [
            helper.make_node("Shape", ["images"], ["back.batch"], start=0, end=1),
            helper.make_node("Shape", ["images"], ["back.sides"], start=1, end=3),
            helper.make_node(
                "Concat", ["back.batch", "back.classes", "back.sides"], ["back.sizes"], axis=0
            ),
            helper.make_node(
                "Resize", ["logits", "", "", "back.sizes"], ["back.scores"],
                mode="linear", coordinate_transformation_mode="half_pixel",
            ),
            helper.make_node("ArgMax", ["back.scores"], ["back.likeliest"], axis=1, keepdims=0),
            helper.make_node("Cast", ["back.likeliest"], ["mask"], to=TensorProto.UINT8),
        ]
    )  # fmt: skip
    graph.initializer.extend(constants)
    batch, height, width, _ = (
        one.dim_param or one.dim_value for one in graph.input[0].type.tensor_type.shape.dim
    )
    mask = helper.make_tensor_value_info("mask", TensorProto.UINT8, [batch, height, width])
    others = list(graph.output)
    graph.ClearField("output")
    graph.output.extend([mask, *others])


def likeliest(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the class of every pixel, uint8 (B, h, w), of scores (B, classes, H, W)."""
    import torch

    if tuple(scores.shape[-2:]) != tuple(size):
        scores = torch.nn.functional.interpolate(scores, size, mode="bilinear", align_corners=False)
    return scores.argmax(1).to(torch.uint8)


def compare(
    model: nn.Module,
    labels: Labels,
    path: Path,
    images: np.ndarray,
    advance: Callable[[int], None] = lambda n: None,
) -> float:
    """Return the largest difference of a score between a model and its file, whose masks agree.

    `images` are uint8 (N, H, W, C) at the model's size. Some are given at other sizes as well,
    where the mask must be what the file's own scores say at that size, since a resize may differ
    by 1 of 255. Raises ExportError where a score differs by 1e-4 or more, or the masks' mean
    intersection over union is below 0.999.
    """
    import torch

    running, (height, width) = session(path), labels.image
    inside = isinstance(running.get_inputs()[0].shape[1], str)
    alike, largest = Overlap(len(labels.classes)), []
    for image in images:
        with torch.inference_mode():
            scores = model(labels.normalised(image[None])).float()
        mask, theirs = (np.asarray(one) for one in running.run(None, {"images": image[None]}))
        alike.add(likeliest(scores, labels.image)[0].numpy(), mask[0])
        largest.append(np.abs(theirs - scores.numpy()).max())
        advance(1)
    found = float(np.max(largest))  # not Python's max, which passes over a NaN
    enlarged = Overlap(len(labels.classes))
    for size in [(2 * height + 3, width + 5), (height // 2 + 2, width)] if inside else []:
        for image in resize(images[:RESIZED], size):
            given = {"images": image[None]}
            mask, theirs = (np.asarray(one) for one in running.run(None, given))
            enlarged.add(likeliest(torch.from_numpy(theirs), size)[0].numpy(), mask[0])
    least = min(alike.mean, enlarged.mean) if inside else alike.mean
    if not (least >= ALIKE and found < TOLERANCE):
        raise ExportError(
            "the exported file does not compute what the model does: masks of "
            f"{len(images)} images agree with the model's to {alike.mean:.4f}, and enlarged ones "
            f"to {enlarged.mean if inside else 1:.4f} (mean intersection over union, {ALIKE} is "
            f"needed), and scores differ by up to {found:.1e} (allowed: {TOLERANCE:.0e})"
        )
    return found


class Overlap:
    """Pixels on which masks agree, class by class, over any number of pairs of masks."""

    def __init__(self, classes: int) -> None:
        self._both, self._either = np.zeros((2, classes), np.int64)

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Count two masks of one picture, whole numbers of any equal shape."""
        classes = len(self._both)
        both = np.bincount(one[one == other], minlength=classes)
        each = np.bincount(one.ravel(), minlength=classes)
        self._both += both
        self._either += each + np.bincount(other.ravel(), minlength=classes) - both

    @property
    def mean(self) -> float:
        """Return the mean intersection over union of the classes that either shows."""
        seen = self._either > 0
        return float((self._both[seen] / self._either[seen]).mean())
