"""Exact deploy-time folding: a model becomes a cheaper one that computes the same.

A module that has a cheaper form of itself in eval mode says so with a method
`deployed() -> nn.Module`: BatchNorm goes into the layer beside it, bias tables become dense
biases, two averaged heads become one. `deploy` asks every module, innermost first.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from vitrail.layers.protocols import Deployable


@torch.no_grad()
def deploy(model: nn.Module) -> nn.Module:
    """Return a copy in eval mode without gradients, each part replaced by its deployed form.

    Outputs agree with the model's in eval mode up to rounding; the model is left as it is.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    return _fold(copied)


def _fold(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _fold(child))
    return module.deployed().eval() if isinstance(module, Deployable) else module
