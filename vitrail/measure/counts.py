"""Exact counts without computing: parameters, and multiply-adds per image, on `meta`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counts:
    """Parameters, and multiply-adds of one image (half of what is called FLOPs elsewhere)."""

    params: int
    macs: int


def counts(model: nn.Module, image: tuple[int, ...], channels: int) -> Counts:
    """Count the parameters and multiply-adds of a model built on `meta`.

    They are those of one image of (height, width), or clip of (frames, height, width), and
    channels.

    Counted are convolutions and matrix products, those inside attention included, as every
    paper's tables do; elementwise work, norms, softmax, pooling and resizing are not. Shared
    parameters count once, buffers (BatchNorm's statistics) do not count.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as operators:
            model(torch.empty(1, channels, *image, device="meta"))
    finally:
        model.train(training)
    params = sum(p.numel() for p in model.parameters())
    return Counts(params, operators.get_total_flops() // 2)
