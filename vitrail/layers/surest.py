"""Of overlapping boxes the surest, in a shape that does not depend on them.

Non-maximum suppression leaves as many boxes as there are objects. A network that goes on with them
needs a fixed number, of which some are empty: so it runs on a whole batch, and can be exported
(`engines.surest` says how the operator is written in ONNX).
"""

from __future__ import annotations

import torch
from torch import Tensor

# What stands for a box where there are fewer.
EMPTY = -1
# No score is below it.
ANY = -1e30
_SCHEMA = "(Tensor boxes, Tensor scores, int most, float overlap, float least) -> Tensor"


@torch.library.custom_op("vitrail::surest", mutates_args=(), schema=_SCHEMA)
def surest(boxes: Tensor, scores: Tensor, most: int, overlap: float, least: float) -> Tensor:
    """Return which boxes (B, N, 4) no surer one overlaps by more than `overlap`: int64 (B, most).

    Of `scores` (B, N) those above `least` count; the surest is first, and `EMPTY` stands where
    there are fewer than `most`.

    Examples:
        >>> import torch
        >>> boxes = torch.tensor([[[0.0, 0, 1, 1], [0, 0, 1, 0.9], [2, 2, 3, 3]]])
        >>> surest(boxes, torch.tensor([[0.8, 0.9, 0.5]]), 3, 0.5, 0.05).tolist()
        [[1, 2, -1]]
    """
    from torchvision.ops import nms

    found = torch.full((len(boxes), most), EMPTY, dtype=torch.int64, device=boxes.device)
    for row, own, sure in zip(found, boxes, scores, strict=True):
        rows = (sure > least).nonzero()[:, 0]
        kept = rows[nms(own[rows], sure[rows], overlap)[:most]]
        row[: len(kept)] = kept
    return found


@surest.register_fake
def _(boxes: Tensor, scores: Tensor, most: int, overlap: float, least: float) -> Tensor:
    return boxes.new_empty((boxes.shape[0], most), dtype=torch.int64)
