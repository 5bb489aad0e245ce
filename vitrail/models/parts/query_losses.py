"""What OWL-ViT minimises: predictions are paired with objects, then labels and boxes are learned.

Minderer et al., ECCV 2022, arXiv 2205.06230, with the pairing of DETR (Carion et al., ECCV 2020,
arXiv 2005.12872) and the focal loss of Lin et al., ICCV 2017, arXiv 1708.02002.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitrail.models.parts.query_heads import Found


@dataclass(frozen=True, eq=False)
class Objects:
    """What one image shows: boxes (M, 4), (cx, cy, w, h) as shares of it, and labels (M, Q), 1
    where an object is what a query asks for and else 0."""

    boxes: Tensor
    labels: Tensor


def objects_of(targets: Float[Tensor, "b m 5"], queries: int) -> list[Objects]:
    """Return what each image shows from rows of the query that an object is of, -1 where there is
    none, and its box."""
    found = []
    for own in targets:
        real = own[own[:, 0] >= 0]
        labels = F.one_hot(real[:, 0].long(), queries).to(real.dtype)
        found.append(Objects(real[:, 1:], labels))
    return found


@dataclass(frozen=True)
class Weights:
    """Weights of labels, corners and overlap, in the pairing and in the loss, and the focal loss's
    alpha and gamma, as published."""

    labels: float = 1.0
    corners: float = 1.0
    overlap: float = 1.0
    alpha: float = 0.3
    gamma: float = 2.0


PUBLISHED = Weights()


def focal(logits: Tensor, targets: Tensor, weights: Weights = PUBLISHED) -> Tensor:
    """Return the focal cross entropy of each logit with its target of 0 or 1."""
    p = logits.sigmoid()
    right = -weights.alpha * (1 - p) ** weights.gamma * F.logsigmoid(logits)
    wrong = -(1 - weights.alpha) * p**weights.gamma * F.logsigmoid(-logits)
    return targets * right + (1 - targets) * wrong


def costs(
    logits: Float[Tensor, "n q"],
    boxes: Float[Tensor, "n 4"],
    objects: Objects,
    weights: Weights = PUBLISHED,
) -> Float[Tensor, "n m"]:
    """Return what it costs to take each prediction of an image for each of its objects.

    Costs of labels are summed over those that an object has, not averaged.
    """
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    gains = focal(logits, ones, weights) - focal(logits, zeros, weights)
    labels = gains @ objects.labels.to(gains).mT
    distance = torch.cdist(boxes, objects.boxes.to(boxes), p=1)
    overlap = _overlap(_corners(boxes), _corners(objects.boxes.to(boxes)))
    return weights.labels * labels + weights.corners * distance - weights.overlap * overlap


@torch.no_grad()
def paired(
    logits: Float[Tensor, "n q"],
    boxes: Float[Tensor, "n 4"],
    objects: Objects,
    weights: Weights = PUBLISHED,
) -> tuple[Tensor, Tensor]:
    """Return which predictions and objects belong together at the least cost in all, a pair a row.

    Only columns of real objects are looked at: predictions that are left show nothing.
    """
    from scipy.optimize import linear_sum_assignment

    table = costs(logits, boxes, objects, weights).double().cpu().numpy()
    rows, columns = linear_sum_assignment(table)
    return torch.from_numpy(rows).to(boxes.device), torch.from_numpy(columns).to(boxes.device)


def loss(
    found: Found,
    objects: Sequence[Objects],
    present: Tensor | None = None,
    weights: Weights = PUBLISHED,
) -> dict[str, Tensor]:
    """Return "loss" and its terms "labels", "corners" and "overlap", means over the images.

    Labels of an image are divided by how many there are, boxes by how many are paired, at least 1,
    so that each image counts alike. Queries that are not `present` (B, Q) are padding and count for
    nothing. Where the network tells objects ("objectness"), that learns which predictions were
    paired, by the same focal loss.
    """
    named: dict[str, list[Tensor]] = {"labels": [], "corners": [], "overlap": []}
    for at, own in enumerate(objects):
        asked = slice(None) if present is None else present[at]
        logits, boxes = found.logits[at][:, asked].float(), found.boxes[at].float()
        own = Objects(own.boxes.to(boxes), own.labels[:, asked].to(boxes))
        rows, columns = paired(logits, boxes, own, weights)
        targets = torch.zeros_like(logits).index_copy(0, rows, own.labels[columns])
        n = max(1.0, float(own.labels.sum()))
        named["labels"].append(focal(logits, targets, weights).sum() / n)
        ours, theirs = _corners(boxes[rows]), _corners(own.boxes[columns])
        pairs = max(1, len(rows))
        named["corners"].append((ours - theirs).abs().sum() / pairs)
        overlap = _overlap(ours, theirs).diagonal()
        named["overlap"].append((1 - overlap).sum() / pairs)
        if found.objectness is not None:
            seen = torch.zeros_like(found.objectness[at].float()).index_fill(0, rows, 1.0)
            told = focal(found.objectness[at].float(), seen, weights).sum() / pairs
            named.setdefault("objectness", []).append(told)
    terms = {name: torch.stack(some).mean() for name, some in named.items()}
    whole = (
        weights.labels * terms["labels"]
        + weights.corners * terms["corners"]
        + weights.overlap * terms["overlap"]
        + terms.get("objectness", 0.0)
    )
    return {"loss": whole, **terms}


def likeliest(found: Found, most: int) -> Found:
    """Return the `most` candidates that are likeliest objects, as OWLv2 trains with them alone.

    A network without objectness keeps all.
    """
    if found.objectness is None or found.objectness.shape[1] <= most:
        return found
    rows = found.objectness.topk(most, 1).indices

    def taken(x: Tensor) -> Tensor:
        return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))

    return Found(
        taken(found.boxes), taken(found.logits), taken(found.embeddings),
        found.objectness.gather(1, rows),
    )  # fmt: skip


def _overlap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return the generalised overlap (N, M) of boxes given by their corners."""
    from torchvision.ops import generalized_box_iou

    return generalized_box_iou(ours, theirs)


def _corners(boxes: Tensor) -> Tensor:
    from torchvision.ops import box_convert

    return box_convert(boxes, "cxcywh", "xyxy")
