"""What an attack of evaluation raises: one value an image, from logits and classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def cross_entropy(logits: Float[Tensor, "b k"], labels: Int[Tensor, "b"]) -> Float[Tensor, "b"]:
    """Return the cross entropy of each image, in nats."""
    return F.cross_entropy(logits, labels, reduction="none")


def difference_of_logits(
    logits: Float[Tensor, "b k"], labels: Int[Tensor, "b"]
) -> Float[Tensor, "b"]:
    """Return the difference-of-logits ratio -(z_y - max of the others) / (z_(1) - z_(3)).

    Above 0 where an answer is wrong; what multiplies all logits leaves it. Needs three classes.
    Croce, Hein, ICML 2020, arXiv 2003.01690.
    """
    ranked = logits.sort(dim=1, descending=True).values
    own = logits.gather(1, labels[:, None])[:, 0]
    mask = F.one_hot(labels, logits.shape[1]).bool()
    other = logits.masked_fill(mask, -torch.inf).amax(1)
    return (other - own) / (ranked[:, 0] - ranked[:, 2] + 1e-12)
