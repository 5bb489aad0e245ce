"""What OWL-ViT puts on every token: a box, an embedding that is compared with queries, a score.

Minderer et al., ECCV 2022, arXiv 2205.06230; the score for objects: arXiv 2306.09683.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear


class Found(NamedTuple):
    """What a network finds in images: for each of N candidates a box (cx, cy, w, h) as shares of
    the image, a logit for each query, an embedding (of length 1), and how likely it is an object,
    a logit, where the network says so."""

    boxes: Float[Tensor, "b n 4"]
    logits: Float[Tensor, "b n q"]
    embeddings: Float[Tensor, "b n width"]
    objectness: Float[Tensor, "b n"] | None


TINY = 1e-6  # is added to lengths


def lengths_off(x: Float[Tensor, "*s d"]) -> Float[Tensor, "*s d"]:
    """Divide every vector by its length plus 1e-6."""
    return x / (x.norm(dim=-1, keepdim=True) + TINY)


def lecun(layer: nn.Linear) -> None:
    """Draw a layer's weights as Flax does by default, its bias zero."""
    nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5 / 0.8796)
    nn.init.zeros_(layer.bias)


class TokenMlp(nn.Module):
    """Three linear layers with GELU between: (B, N, C) to (B, N, outputs)."""

    def __init__(self, dim: int, outputs: int, *, approximate: str) -> None:
        super().__init__()
        sizes = [(dim, dim), (dim, dim), (dim, outputs)]
        self.layers = nn.ModuleList(Linear(*size) for size in sizes)
        self.act = nn.GELU(approximate)
        for layer in self.layers:
            lecun(layer)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n k"]:
        first, second, last = self.layers
        return last(second.then(first.then(x, self.act), self.act))  # pyright: ignore[reportCallIssue]


class QueryHead(nn.Module):
    """Embeddings of tokens against queries: (B, N, C) and (B, Q, width) to logits (B, N, Q).

    A logit is (cosine + shift) * scale, where each token says its own shift and scale. `absent` is
    the logit of queries that are padding.
    """

    def __init__(self, dim: int, width: int, *, absent: float | None) -> None:
        super().__init__()
        self.embed = Linear(dim, width)
        self.shift, self.scale = Linear(dim, 1), Linear(dim, 1)
        self.absent = absent
        nn.init.normal_(self.embed.weight, std=1e-6)
        nn.init.zeros_(self.embed.bias)
        lecun(self.shift)
        lecun(self.scale)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        queries: Float[Tensor, "b q width"],
        present: Bool[Tensor, "b q"],
    ) -> tuple[Float[Tensor, "b n q"], Float[Tensor, "b n width"]]:
        own = lengths_off(self.embed(x))
        cosines = own @ lengths_off(queries).mT
        logits = (cosines + self.shift(x)) * (F.elu(self.scale(x)) + 1)
        absent = torch.finfo(logits.dtype).min if self.absent is None else self.absent
        return logits.masked_fill(~present[:, None], absent), own


def cells(grid: tuple[int, int], *, alike: bool) -> Float[Tensor, "n 4"]:
    """Return what is added to the logits of the boxes of a grid, (cx, cy, w, h), in float64.

    With it alone a box is centred on its patch's lower right corner and as large as a patch; if
    `alike`, as high as wide also where the grid is not square.
    """
    h, w = grid
    y, x = torch.meshgrid(
        torch.arange(1, h + 1, dtype=torch.float64) / h,
        torch.arange(1, w + 1, dtype=torch.float64) / w,
        indexing="ij",
    )
    places = torch.stack([x, y], -1).flatten(0, 1)
    sizes = torch.tensor([1 / w, 1 / (w if alike else h)], dtype=torch.float64).expand_as(places)
    share = torch.cat([places, sizes], 1)
    return torch.log(share + 1e-4) - torch.log1p(-share + 1e-4)
