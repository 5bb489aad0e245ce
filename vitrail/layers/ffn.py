"""Position-wise feed-forward networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear, linear


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x): the approximation of GELU that CLIP and CvT use."""

    slope = 1.702

    def forward(self, x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        return F.silu(self.slope * x).mul_(1 / self.slope)


class Mlp(nn.Module):
    """Linear to `hidden`, activation, Linear back: (B, *S, C) to the same shape."""

    def __init__(
        self, dim: int, hidden: int, *, act: nn.Module | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.act = nn.GELU() if act is None else act
        self.dropout = nn.Dropout(dropout)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*s c"]) -> Float[Tensor, "*s c"]:
        return self.fc2(self.dropout(self.fc1.then(x, self.act)))

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.fc2 = self.fc2.scaled(scale)


class QuickMlp(Mlp):
    """Mlp with QuickGELU, which is SiLU with its slope in the layers around it: weights are fewer
    than the numbers between them."""

    def __init__(self, dim: int, hidden: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, hidden, act=QuickGELU(), dropout=dropout)

    def forward(self, x: Float[Tensor, "*s c"]) -> Float[Tensor, "*s c"]:
        if not (torch.is_grad_enabled() and isinstance(self.act, QuickGELU)):
            return super().forward(x)
        slope = self.act.slope
        inside = F.silu(F.linear(x, self.fc1.weight * slope, self.fc1.bias * slope))
        return F.linear(self.dropout(inside), self.fc2.weight / slope, self.fc2.bias)

    def deployed(self) -> nn.Module:
        """Move the slope into the layers for good: one pass for three."""
        if isinstance(self.act, QuickGELU):
            slope, self.act = self.act.slope, nn.SiLU()
            self.fc1 = linear(self.fc1.weight * slope, self.fc1.bias * slope)
            self.fc2 = linear(self.fc2.weight / slope, self.fc2.bias)
        return self
