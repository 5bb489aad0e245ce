"""LiT: a text tower that learns what a locked image tower sees; both towers as one network.

Zhai, Wang, Mustafa, Steiner, Keysers, Kolesnikov, Beyer, "LiT: Zero-Shot Transfer with Locked-image
text Tuning", CVPR 2022, arXiv 2111.07991; big_vision's two towers.

An image (B, 3, H, W) in [-1, 1] and ids of tokens (B, length) become embeddings of length 1 in one
space. The image tower is a ViT, the text tower its blocks without a mask. Without `bias` cosines
are multiplied by a learned temperature alone; with it they are shifted as well, for the sigmoid
loss. It is a network of pairs, so it is in no catalog of image backbones: `vitrail.create` and
`vitrail.load` take its `Config`. Lengths get 1e-8 added before they divide, and the class token has
no position, as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.layers.pairs import unit
from vitrail.models import vit
from vitrail.models.names import lit as names
from vitrail.models.parts.text_tower import Text, TextTower
from vitrail.models.trunk.backbone import Backbone, InputKind


@dataclass(frozen=True)
class Config:
    """An image tower and a text tower; `bias` is that of the sigmoid loss.

    Embeddings have as many numbers as `tower` has classes, or, where it has none, as it is wide.
    """

    tower: vit.Config = field(default_factory=lambda: vit.Config(classes=0))
    text: Text = field(default_factory=Text)
    bias: bool = False

    @property
    def width(self) -> int:
        """Return how many numbers an embedding has."""
        return self.tower.classes or self.tower.dim

    @property
    def image(self) -> tuple[int, int]:
        """Return the image tower's height and width."""
        return self.tower.image

    @property
    def channels(self) -> int:
        """Return the image tower's channels."""
        return self.tower.channels

    @property
    def input_kind(self) -> InputKind:
        """Return the kind of input: pairs."""
        return "pairs"


NAMES = names.TABLES


class LiT(Backbone):
    """An image (B, channels, H, W) and tokens (B, length) to embeddings of both, (B, width)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.tower, self.text = vit.ViT(c.tower), TextTower(c.text, c.width)
        self.levels, self.width = self.tower.levels, c.width
        self.t = nn.Parameter(torch.full((1,), math.log(10)))
        self.b = nn.Parameter(torch.full((1,), -10.0)) if c.bias else None

    @property
    def temperature(self) -> Float[Tensor, "1"]:
        """Return what cosines are multiplied by, 10 at first."""
        return self.t.exp()

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, image: Float[Tensor, "b channels h w"], tokens: Int[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b width"], Float[Tensor, "b width"]]:
        return self.embedding(image), self.embedded(tokens)

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        """Return what an image shows, of length 1."""
        return unit(self.tower(image))

    def embedded(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b width"]:
        """Return what a sentence says, of length 1."""
        return unit(self.text(tokens))

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the image tower's maps (B, h, w, C)."""
        return self.tower.features(image, at)

    def locked(self) -> LiT:
        """Return the model, its image tower frozen for good; `Learner` keeps that in eval mode."""
        self.tower.eval().requires_grad_(False)
        return self

    def no_decay(self) -> set[str]:
        """Return the parameters that take no weight decay: positions, tokens, temperature."""
        inner = {f"tower.{name}" for name in self.tower.no_decay()}
        return inner | {"text.position", "text.embed.weight", "t", "b"}


MODEL = LiT
