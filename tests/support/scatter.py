"""Modules whose parameters are not what they begin with, so that no fault hides in a zero."""

from __future__ import annotations

import torch
from torch import nn


def scattered(module: nn.Module, by: float = 0.2) -> nn.Module:
    """The module in float64 and eval mode, normal noise of deviation `by` on its parameters, and
    statistics in its BatchNorms."""
    torch.manual_seed(0)
    module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * by)
        for m in module.modules():
            if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
                m.running_mean.normal_(std=0.1)
                m.running_var.uniform_(0.5, 1.5)
    return module
