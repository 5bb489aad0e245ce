"""Gates: a map times what a few numbers about it say, in one pass.

Maps are (B, C, H, W), views of channels-last memory as in `conv`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def squeezed(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """Return the mean over positions, computed and kept in float32 at least: in float16 the mean of
    a large map would lose its last bits.
    """
    return x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32))


def channels(dim: int, reduction: int) -> int:
    """Return dim / reduction, rounded down; raise ValueError if nothing is left."""
    hidden = dim // reduction if reduction > 0 else 0
    if hidden < 1:
        raise ValueError(
            f"{dim} channels over a reduction of {reduction} leave none: choose one from 1 to {dim}"
        )
    return hidden


class Gate(nn.Module):
    """x * factor(x): (B, C, H, W) to the same. Subclasses write `factor`, or `parts` where what
    is multiplied is not x itself."""

    def factor(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b #c #h #w"]:
        """Return what x is multiplied by, in the dtype of x."""
        raise NotImplementedError

    def parts(
        self, x: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b #c #h #w"]]:
        """Return a map and its factor, whose product is the result."""
        return x, self.factor(x)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x, factor = self.parts(x)
        return x * factor

    def joined(
        self, x: Float[Tensor, "b c h w"], other: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the gated x plus `other`, in the same pass."""
        x, factor = self.parts(x)
        return torch.addcmul(other, x, factor)
