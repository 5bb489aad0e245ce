"""How operators of vitrail's own are written in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def translations() -> Mapping[Any, Callable[..., Any]]:
    """Return what torch's exporter writes for each operator that it does not know."""
    from vitrail.layers.surest import surest

    return {surest._opoverload: _surest}


def _surest(boxes: Any, scores: Any, most: int, overlap: float, least: float) -> Any:
    """Write `surest`: `NonMaxSuppression` names (image, class, place) of what it keeps, image by
    image and the surest first; each goes to the next free place of its image's row."""
    import onnxscript

    from vitrail.layers.surest import EMPTY

    op: Any = onnxscript.opset18

    def whole(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    one, zero = op.Constant(value_int=1), op.Constant(value_int=0)
    chosen = op.NonMaxSuppression(
        boxes, op.Unsqueeze(scores, whole(1)), whole(most),
        op.Constant(value_floats=[overlap]), op.Constant(value_floats=[least]),
    )  # fmt: skip
    image = op.Gather(chosen, zero, axis=1)
    place = op.Gather(chosen, op.Constant(value_int=2), axis=1)
    batch = op.Shape(boxes, start=0, end=1)
    images = op.Range(zero, op.Squeeze(batch), one)
    own = op.Cast(op.Equal(op.Unsqueeze(image, whole(1)), op.Unsqueeze(images, whole(0))), to=7)
    counted = op.ReduceSum(op.Mul(op.CumSum(own, zero), own), whole(1), keepdims=0)
    rank = op.Sub(counted, one)
    rows = op.Expand(whole(EMPTY), op.Concat(batch, whole(most), axis=0))
    at = op.Concat(op.Unsqueeze(image, whole(1)), op.Unsqueeze(rank, whole(1)), axis=1)
    return op.ScatterND(rows, at, place)
