"""One tower of VATT with a head of classes, as a training of three inputs is fine-tuned.

Akbari et al., NeurIPS 2021, arXiv 2104.11178. The head sees the aggregating token. Behind an
encoder that was shared by all inputs, the layers before and behind it stay.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear
from vitrail.models.parts.vatt_encoder import Sizes
from vitrail.models.parts.vatt_inputs import Cut, Told, Tower
from vitrail.models.trunk.backbone import Backbone
from vitrail.models.trunk.heads import linear_head


def name_in(name: str, kind: str, behind: int) -> str:
    """Return what a parameter of a tower of "video" or "audio" is called in one of three inputs.

    Examples:
        >>> name = "tower.encoder.norm.bias"
        >>> name_in(name, "video", 0), name_in(name, "audio", 64)
        ('towers.video.encoder.norm.bias', 'encoder.norm.bias')
    """
    if not behind:
        return name.replace("tower.", f"towers.{kind}.", 1)
    for ours, theirs in (
        ("tower.placed.", f"placed.{kind}."), ("tower.encoder.", "encoder."),
        ("tower.token", f"tokens.{kind}"), ("after.", f"after.{kind}."),
    ):  # fmt: skip
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


class HeadedTower(Backbone):
    """A tower of one input with a head: (B, channels, *S) to logits (B, classes).

    A Config has the sizes of the `encoder`, `keep`, `dropout` and `classes`; `behind` is the width
    of the layer behind an encoder that was shared, 0 for a tower of its own.
    """

    undecayed = ("tables.0", "tables.1", "tables.2", "token")

    def __init__(self, cut: Cut, config: Any) -> None:
        super().__init__()
        c = self.config = config
        size: Sizes = c.encoder
        behind: int = c.behind
        self.tower = Tower(cut, size, c.keep, c.dropout)
        self.after: nn.Module = nn.Identity()
        if behind:
            self.tower.placed.before = nn.Sequential(Linear(size.dim, size.dim), nn.GELU())
            self.after = nn.Sequential(Linear(size.dim, behind), nn.GELU())
        self.width = behind or size.dim
        self.head = linear_head(self.width, c.classes)

    @property
    def depth(self) -> int:
        """Return the depth of the head for layer-wise rates; that of patches is 0."""
        return self.config.encoder.depth + 1

    def depth_of(self, name: str) -> int:
        """Return how deep the parameter `name` lies, for layer-wise learning rates."""
        block = name.removeprefix("tower.encoder.blocks.")
        if block != name:
            return int(block.partition(".")[0]) + 1
        return self.depth if name.startswith(("head.", "after.", "tower.encoder.")) else 0

    def read(self, value: Float[Tensor, "b channels *s"]) -> Told:
        """Return what is said of the input: pooled (B, C), tokens (B, n, C)."""
        told = self.tower(value)
        return Told(self.after(told.pooled), self.after(told.tokens))

    def embedding(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, value: Float[Tensor, "b channels *s"]
    ) -> Float[Tensor, "b width"]:
        """Return the aggregating token."""
        return self.after(self.tower(value).pooled)
