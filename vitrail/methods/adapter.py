"""Adapters: a frozen block learns a small bottleneck behind its feed-forward network.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751, where
Pfeiffer et al., EACL 2021, arXiv 2005.00247, put them, as VPT (arXiv 2203.12119) compares with:
y becomes y + up(GELU(down(y))), before the residual. VPT's code begins with both matrices at zero,
so that no gradient reaches either; here `down` begins small and `up` at zero, so that training
begins at the function of the backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.linear import Linear
from vitrail.methods.adapting import frozen, require_alone
from vitrail.methods.method import Quiet, available, seams, works

STD = 0.01  # of `down` at the start
PLACES = ("blocks.*.ffn", "stages.*.blocks.*.ffn")


@dataclass(frozen=True)
class Adapter(Quiet):
    """Trains a bottleneck of 1 / `reduction` of a block's width in every block, and the head.

    The paper of VPT tries 8, 64 and 256.

    vitrail train --set pretrained=vit.npz --set methods=adapter --set methods.0.reduction=8 ...
    """

    reduction: int = 8

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise ConfigError(f"reduction is {self.reduction}: give 1 or more, 8 is usual")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless every block has a feed-forward network, wide enough."""
        require_alone("adapter", model)
        if not any(place in available(model) for place in PLACES) or not works(self, model):
            raise ConfigError(
                "adapter needs blocks with a feed-forward network, such as vit or swin have, no "
                f"narrower than its reduction of {self.reduction}; this model has the seams "
                f"{', '.join(available(model))}"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put a bottleneck behind each network; returns the model."""
        frozen("adapter", model)
        whole: Any = model
        for seam in seams(model, *PLACES):
            level = int(seam.name.split(".")[1]) if seam.name.startswith("stages.") else -1
            dim = whole.levels[level].channels
            if dim < self.reduction:
                raise ValueError(f"a block of {dim} channels has none left of {self.reduction}")
            like = next(seam.module.parameters())
            seam.replace(Bottleneck(seam.module, dim, dim // self.reduction, like))
        return model


class Bottleneck(nn.Module):
    """A feed-forward network and what is added to its result: (B, *S, C) to the same."""

    def __init__(self, ffn: nn.Module, dim: int, hidden: int, like: Tensor) -> None:
        super().__init__()
        self.ffn, self.act = ffn, nn.GELU()
        self.down = Linear(dim, hidden, device=like.device, dtype=like.dtype)
        self.up = Linear(hidden, dim, device=like.device, dtype=like.dtype)
        nn.init.normal_(self.down.weight, std=STD)
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        y = self.ffn(x)
        return y + self.up(self.down.then(y, self.act))
