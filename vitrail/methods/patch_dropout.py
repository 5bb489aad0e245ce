"""PatchDropout: an image shows only some of its patches while the model learns.

Liu, Matsoukas, Strand, Azizpour, Smith, "PatchDropout: Economizing Vision Transformers Using
Patch Dropout", WACV 2023, arXiv 2208.07220. Each image keeps patches of its own, drawn anew in
every step; the class token always stays; positions are added before, so that a kept patch knows
where it was. In eval mode nothing is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.methods.method import Quiet, available, works, wrap


@dataclass(frozen=True)
class PatchDropout(Quiet):
    """Keeps a random share `keep` of an image's patches in training: half of them cost half.

    vitrail train --set model=deit_tiny --set methods=patch_dropout --set methods.0.keep=0.25
    """

    keep: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ConfigError(f"keep is {self.keep}: give a share of the patches in (0, 1]")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model reads tokens that need not lie on a grid."""
        if not hasattr(getattr(model, "embed", None), "grid") or not works(self, model):
            raise ConfigError(
                "patch_dropout needs a model whose blocks take any number of tokens, such as vit, "
                f"deit or cait; this one has the seams {', '.join(available(model))}"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Put the dropout behind the embedding; returns the model."""
        return wrap(model, "embed", lambda embed: Dropped(embed, self.keep))


class Dropped(nn.Module):
    """An embedding that drops patches in training: (B, prefix + n, C) to (B, prefix + kept, C)."""

    def __init__(self, embed: nn.Module, keep: float) -> None:
        super().__init__()
        self.embed, self.keep = embed, keep

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches of an image, as the embedding does."""
        whole: Any = self.embed
        return whole.grid(height, width)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b *n c"]:
        tokens = self.embed(image)
        if not self.training or self.keep == 1:
            return tokens
        h, w = self.grid(*image.shape[-2:])
        prefix, n = tokens.shape[1] - h * w, h * w
        kept = max(1, round(self.keep * n))
        order = torch.rand(len(tokens), n, device=tokens.device).argsort(1)[:, :kept]
        places = (order.sort(1).values + prefix)[..., None].expand(-1, -1, tokens.shape[-1])
        return torch.cat([tokens[:, :prefix], tokens.gather(1, places)], 1)
