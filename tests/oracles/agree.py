"""How an oracle is asked: its random weights through our loader, its outputs against ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vitrail


def weekly(*cases: Any) -> list[Any]:
    """Cases of the same code as others, which only the slow tests ask."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]


def scatter(model: nn.Module) -> nn.Module:
    """Random values in every parameter and buffer, so that none can be ignored unnoticed."""
    generator = torch.Generator().manual_seed(0)
    model.double().eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                value.copy_(1 + 0.1 * noise.abs())
            elif value.ndim <= 1 and name.endswith("weight"):
                value.copy_(1 + 0.1 * noise)
            elif value.ndim <= 1:
                value.copy_(0.1 * noise)
            else:
                fan_in = max(1, value[0].numel())
                value.copy_(noise * (0.5 if value.shape[0] == 1 else fan_in**-0.5))
    return model


def hollow(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The state of a published peer, by names and shapes: zeros, which take no memory and no time
    to make up."""
    with torch.device("meta"):
        state = make().state_dict()
    return {n: torch.zeros((), dtype=v.dtype).expand(v.shape) for n, v in state.items()}


def difference(peer: nn.Module, config, source: str, image=(64, 64), logits=lambda y: y) -> float:
    """Largest difference of logits between a peer and ours, relative to their size."""
    scatter(peer)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, config.channels, *image, generator=generator, dtype=torch.float64)
    ours = vitrail.load(config, peer.state_dict(), source=source, dtype=torch.float64)
    with torch.no_grad():
        expected, got = logits(peer(x)), ours(x)
    return float((expected - got).abs().max() / expected.std())
