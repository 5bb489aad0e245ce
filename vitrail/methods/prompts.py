"""The prompts of VPT: learned tokens of one or several layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear


class Prompts(nn.Module):
    """Gives `count` tokens for each layer: (1, p, C), or (B, p, C) where dropout differs by image.

    `widths` is C of each layer. Prompts are uniform in +-sqrt(6 / (channels stride^2 + width)), as
    the paper has it for patches of stride x stride pixels. With a `projection` they are so wide
    and pass one linear layer of all. Made of `like`'s type, on its device.
    """

    def __init__(
        self,
        widths: Sequence[int],
        count: int,
        *,
        config: Any,
        stride: int,
        projection: int = 0,
        dropout: float = 0.0,
        like: Tensor,
    ) -> None:
        super().__init__()
        self.count = count
        pixels = config.channels * stride**2
        tokens = [like.new_empty(1, count, projection or width) for width in widths]
        self.tokens = nn.ParameterList(
            nn.Parameter(nn.init.uniform_(t, -bound, bound))
            for t in tokens
            for bound in [(6 / (pixels + t.shape[-1])) ** 0.5]
        )
        self.proj: nn.Module = nn.Identity()
        if projection:
            self.proj = Linear(projection, widths[0], device=like.device, dtype=like.dtype)
            nn.init.kaiming_normal_(self.proj.weight, mode="fan_out")
        self.dropout = nn.Dropout(dropout)

    def forward(self, layer: int, batch: int) -> Float[Tensor, "b p c"]:
        tokens = self.proj(self.tokens[layer])
        if self.training and self.dropout.p:
            return self.dropout(tokens.expand(batch, -1, -1))
        return tokens
