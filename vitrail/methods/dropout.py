"""Dropout where the first ViTs have it: Srivastava et al., JMLR 15 (2014).

Behind the positions, inside every feed-forward network and behind every branch of a block, not on
the weights of attention: as ViT (arXiv 2010.11929), MLP-Mixer and AugReg (arXiv 2106.10270).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.ffn import Mlp
from vitrail.layers.residual import DropPath
from vitrail.methods.method import Quiet, available, seams, wrap


@dataclass(frozen=True)
class Dropout(Quiet):
    """Zeroes a share `rate` of the numbers in training, and divides the others by the rest.

    vitrail train --set model=vit_ti16 --set methods=dropout --set methods.0.rate=0.1 ...
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError(f"rate is {self.rate}: give a share in [0, 1), 0.1 is usual")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has blocks of a mixer and a feed-forward network."""
        if not _blocks(model):
            raise ConfigError(
                "dropout needs blocks of a mixer and a feed-forward network, as vit or swin have "
                f"them; this model has the seams {', '.join(available(model))}"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Put dropout behind the embedding and into every block; returns the model."""
        for block in _blocks(model):
            block.drop_path = Branch(block.drop_path.rate, self.rate)
            if isinstance(block.ffn, Mlp):
                block.ffn.dropout = nn.Dropout(self.rate)
        if "embed" in available(model):
            wrap(model, "embed", lambda embed: Embedding(embed, self.rate))
        return model


def _blocks(model: nn.Module) -> list[Any]:
    places = [p for p in ("blocks.*", "stages.*.blocks.*") if p in available(model)]
    found: list[Any] = [seam.module for seam in seams(model, *places)] if places else []
    return [
        block
        for block in found
        if isinstance(getattr(block, "drop_path", None), DropPath)
        and isinstance(getattr(block, "ffn", None), nn.Module)
    ]


class Branch(DropPath):
    """The end of a branch: dropout of single numbers, then of whole samples."""

    def __init__(self, rate: float, share: float) -> None:
        super().__init__(rate)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, self.share, self.training))


class Embedding(nn.Module):
    """An embedding with dropout behind it: (B, N, C) or (B, h, w, C) to the same."""

    def __init__(self, embed: nn.Module, rate: float) -> None:
        super().__init__()
        self.embed, self.dropout = embed, nn.Dropout(rate)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches of an image, as the embedding does."""
        whole: Any = self.embed
        return whole.grid(height, width)

    def forward(self, image: Tensor) -> Tensor:
        return self.dropout(self.embed(image))
