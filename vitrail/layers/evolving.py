"""Evolving attention: maps of logits that go on from layer to layer.

Wang et al., "Evolving Attention with Residual Convolutions", ICML 2021, arXiv 2102.12895. A layer
mixes the logits of the layer before it into its own, and refines the mix by a 3x3 convolution
over the map of queries and keys, whose channels are the heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import frozen


class Evolution(nn.Module):
    """beta act(conv(I)) + (1 - beta) I with I = alpha before + (1 - alpha) q k'.

    `alpha` and `beta` are the paper's. Without a share of the convolution, beta 0, there is none;
    with alpha 0 as well these are the logits of plain attention. Queries come scaled. `act` is
    positively homogeneous, as ReLU and LeakyReLU are: then beta goes into the kernel for good.
    """

    def __init__(self, heads: int, alpha: float, beta: float, act: nn.Module) -> None:
        super().__init__()
        for name, share in (("alpha", alpha), ("beta", beta)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}: expected a share between 0 and 1")
        if not isinstance(act, nn.ReLU | nn.LeakyReLU):
            raise ValueError(f"act is a {type(act).__name__}: expected a ReLU or a LeakyReLU")
        self.alpha, self.beta, self.act = alpha, beta, act
        self.factor = beta  # what the convolution is yet multiplied by
        self.conv = nn.Conv2d(heads, heads, 3, padding=1) if beta else None

    def forward(
        self,
        q: Float[Tensor, "b n t d"],
        k: Float[Tensor, "b n s d"],
        before: Float[Tensor, "b n t s"],
    ) -> Float[Tensor, "b n t s"]:
        mixed = self.mix(q, k, before)
        if self.conv is None:
            return mixed
        # All models' kernels are channels last; attention needs its maps row by row.
        weight = self.conv.weight.contiguous()
        refined = self.act(F.conv2d(mixed, weight, self.conv.bias, padding=1))
        if self.factor != 1:
            refined = refined * self.factor
        return refined if self.beta == 1 else torch.add(refined, mixed, alpha=1 - self.beta)

    def mix(
        self,
        q: Float[Tensor, "b n t d"],
        k: Float[Tensor, "b n s d"],
        before: Float[Tensor, "b n t s"],
    ) -> Float[Tensor, "b n t s"]:
        """Return alpha before + (1 - alpha) q k', in one pass over the maps."""
        keys = k.flatten(0, 1).mT
        maps = torch.baddbmm(
            before.flatten(0, 1), (q * (1 - self.alpha)).flatten(0, 1), keys, beta=self.alpha
        )
        return maps.view_as(before)

    def deployed(self) -> nn.Module:
        """Move the factor into the kernel."""
        if self.conv is not None and self.conv.bias is not None:
            self.conv.weight = frozen(self.conv.weight.contiguous() * self.factor)
            self.conv.bias, self.factor = frozen(self.conv.bias * self.factor), 1.0
        return self
