"""Side-tuning: a frozen backbone and a small network beside it, whose results are blended.

Zhang, Sax, Zamir, Guibas, Malik, "Side-Tuning: A Baseline for Network Adaptation via Additive Side
Networks", ECCV 2020, arXiv 1912.13503, as VPT (arXiv 2203.12119) compares with it: the head sees
s(a) x + (1 - s(a)) y, where x is what it saw before, y what the side network makes of the image,
and s the sigmoid of one learned number. Their side network is an AlexNet; ours has convolutions
that suit images from 8 pixels up, and its last layer begins at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.linear import Linear
from vitrail.methods.adapting import frozen, require_alone
from vitrail.methods.method import Quiet, Seam, available, seams, works

ENTRANCES = ("embed", "stem")
SMALLEST = 8


@dataclass(frozen=True)
class SideTune(Quiet):
    """Trains a network of three strided convolutions beside the backbone, the blend, and the head.

    `width` is that of its first map; each further one is twice as wide.

    vitrail train --set pretrained=vit.npz --set methods=side_tune --set methods.0.width=32 ...
    """

    width: int = 32

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width is {self.width}: give 1 or more, 32 is usual")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model has an entrance, a pool and a large enough image."""
        require_alone("side_tune", model)
        whole: Any = model
        image = whole.config.image
        has = available(model)
        fits = any(name in has for name in ENTRANCES) and "pool" in has
        if not fits or min(image) < SMALLEST or not works(self, model):
            raise ConfigError(
                f"side_tune needs images of {SMALLEST} pixels or more and a model with a pool, as "
                f"vit or swin have it; this one takes {image[0]}x{image[1]} and has the seams "
                f"{', '.join(has)}"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the side network beside it; returns the model."""
        frozen("side_tune", model)
        whole: Any = model
        like = next(model.parameters())
        side = Side(whole.config.channels, self.width, whole.width)
        whole.side = side.to(device=like.device, dtype=like.dtype)
        entrance: Seam = seams(model, *[name for name in ENTRANCES if name in available(model)])[0]
        entrance.replace(Seen(entrance.module, whole.side))
        whole.pool = Blended(whole.pool, whole.side)
        return model


class Side(nn.Module):
    """A small network of its own: an image (B, channels, H, W) to (B, width).

    `blend` is what the sigmoid is taken of; 0 begins with halves. `said` is what it made of the
    images of the running forward pass.
    """

    def __init__(self, channels: int, width: int, out: int) -> None:
        super().__init__()
        sizes = [channels, width, 2 * width, 4 * width]
        self.convs = nn.Sequential()
        for before, after in pairwise(sizes):
            self.convs.extend(
                [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(1, after), nn.ReLU()]
            )
        self.proj = Linear(sizes[-1], out)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)
        self.blend = nn.Parameter(torch.zeros(()))
        self.said: Tensor | None = None

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        return self.proj(self.convs(image).mean((2, 3)))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which starts without what a pass said."""
        return {**self.__dict__, "said": None}


class Seen(nn.Module):
    """The entrance of a backbone, where the side network sees the image too."""

    def __init__(self, entrance: nn.Module, side: Side) -> None:
        super().__init__()
        self.entrance, self.source = entrance, (side,)  # a part of the model, not of this

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Tensor:
        side = self.source[0]
        side.said = side(image)
        return self.entrance(image)

    def grid(self, *image: int) -> tuple[int, int]:
        """Return the entrance's grid of an image."""
        return self.entrance.grid(*image)  # pyright: ignore[reportCallIssue]


class Blended(nn.Module):
    """A backbone's pool, whose result is blended with what the side network said."""

    def __init__(self, pool: nn.Module, side: Side) -> None:
        super().__init__()
        self.pool, self.source = pool, (side,)

    def forward(self, x: Tensor) -> Float[Tensor, "b width"]:
        side = self.source[0]
        assert side.said is not None
        share = side.blend.sigmoid()
        return share * self.pool(x) + (1 - share) * side.said
