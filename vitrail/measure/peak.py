"""The machine's own rate of matrix products, which no dense model can beat."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Large enough that packing and threads do not show, small enough to alternate with models.
SIDE = {"cpu": 1536, "cuda": 8192, "mps": 4096}


def product(dtype: torch.dtype, device: str = "cpu") -> tuple[Callable[[], object], float]:
    """Return a call that multiplies two square matrices, and its floating-point operations."""
    side = SIDE.get(device.partition(":")[0], SIDE["cpu"])
    a, b, c = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
    return lambda: torch.mm(a, b, out=c), 2.0 * side**3
