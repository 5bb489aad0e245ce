"""Adaptive gradient clipping: each unit's gradient against the size of its weights.

Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", ICML 2021,
arXiv 2102.06171. LeViT clips so, all parameters alike, at 0.01.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Weights that are smaller, as those that begin at zero, count as this large.
LEAST = 1e-3


@torch.no_grad()
def clip_units(parameters: Iterable[nn.Parameter], ratio: float) -> None:
    """Shorten, in place, each unit's gradient to `ratio` times the norm of its weights.

    A unit is what belongs to one output: a row of a matrix, a kernel of a convolution, all of a
    tensor of one axis. A gradient that is not finite stays so.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            limit = ratio * _norms(parameter).clamp_(min=LEAST)
            size = _norms(parameter.grad)
            parameter.grad.mul_(torch.where(size > limit, limit / size, 1.0))


def _norms(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2:
        return tensor.norm()
    return tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))
