"""A backbone of images that looks at each frame of a clip, and what it saw pooled over time.

The mean of what frames show knows no order; Karpathy et al., "Large-scale Video Classification
with Convolutional Neural Networks", CVPR 2014, found it hard to beat. Attention pooling has one
learned query over the frames, each with a learned position in time, beside that mean, as the
[CLS] token of a temporal encoder has (Arnab et al., "ViViT", ICCV 2021, arXiv 2103.15691, model 2,
with one layer of one head).

It is a network of clips, so it is in no catalog of image backbones: `vitrail.create` takes its
`Config`, and a recipe of clips puts it around any backbone of images. There is no golden, since
nobody published weights of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.linear import Linear
from vitrail.models import resnet
from vitrail.models.parts.image_hosts import ImageHosts
from vitrail.models.trunk import hosts
from vitrail.models.trunk.backbone import (
    Backbone,
    InputKind,
    Variant,
    check_image,
    input_kind,
    input_words,
)
from vitrail.models.trunk.catalog import built
from vitrail.models.trunk.heads import linear_head

POOLS = ("mean", "attention")
_RESNET = resnet.Config()


@dataclass(frozen=True)
class Config(hosts.Hosted):
    """A backbone of images, `host`, for clips of `frames` frames; `pool` over time is "mean" or
    "attention"."""

    host: ImageHosts = _RESNET
    frames: int = 8
    pool: str = "mean"

    @property
    def input_kind(self) -> InputKind:
        """Return the kind of input: clips."""
        return "clips"


CLIPS: dict[str, Variant] = {}
NAMES: dict[str, list] = {}


class TimeAttention(nn.Module):
    """One learned query over frames: (B, T, C) to (B, C), beside their mean."""

    def __init__(self, dim: int, frames: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(1, frames, dim))
        self.query = nn.Parameter(torch.empty(1, 1, dim))
        self.norm = nn.LayerNorm(dim)
        self.keys, self.values = Linear(dim, dim), Linear(dim, dim)
        self.proj = Linear(dim, dim)
        for table in (self.position, self.query):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b c"]:
        y = self.norm(x) + self.position
        scores = self.query @ self.keys(y).transpose(1, 2) / y.shape[2] ** 0.5
        return x.mean(1) + self.proj(scores.softmax(2) @ self.values(y))[:, 0]


class TimeMean(nn.Module):
    """The mean over frames: (B, T, C) to (B, C)."""

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b c"]:
        return x.mean(1)


class PerFrame(Backbone):
    """A clip (B, channels, T, H, W) to logits (B, classes).

    Raises ValueError for a host that takes clips itself.

    Examples:
        >>> import torch, vitrail
        >>> from vitrail.models import per_frame, resnet
        >>> host = resnet.Config(image=(32, 32), classes=5)
        >>> model = vitrail.create(per_frame.Config(host, frames=4)).eval()
        >>> model(torch.zeros(2, 3, 4, 32, 32)).shape
        torch.Size([2, 5])
    """

    undecayed = ("position", "query")

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        if config.pool not in POOLS:
            raise ValueError(f"pool is {config.pool!r}: expected {' or '.join(POOLS)}")
        if input_kind(config.host) != "images":
            raise ValueError(
                f"host takes {input_words(config.host)}: expected a backbone of images"
            )
        self.backbone = built(replace(config.host, classes=0), {})
        self.levels, self.width = self.backbone.levels, self.backbone.width
        attends = config.pool == "attention"
        self.pool = TimeAttention(self.width, config.frames) if attends else TimeMean()
        self.head = (
            linear_head(self.width, config.classes or 0) if config.classes else nn.Identity()
        )

    def features(
        self, image: Float[Tensor, "b channels t h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the host's maps of every frame, (B, T, h, w, C)."""
        maps = self.backbone.features(self._frames(image), at)
        return [x.unflatten(0, (-1, self.config.frames)) for x in maps]

    def embedding(self, image: Float[Tensor, "b channels t h w"]) -> Float[Tensor, "b width"]:
        """Return what the head sees: what all frames show, pooled over time."""
        seen = self.backbone.embedding(self._frames(image))
        return self.pool(seen.unflatten(0, (-1, self.config.frames)))

    def no_decay(self) -> set[str]:
        """Return the parameters of backbone and pool that take no weight decay."""
        return super().no_decay() | {f"backbone.{name}" for name in self.backbone.no_decay()}

    @property
    def depth(self) -> int:
        """Return the layer-wise depth of the head: the backbone's."""
        return self.backbone.depth

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies: in the backbone as there, the rest behind all."""
        inner = name.removeprefix("backbone.")
        return self.depth if inner == name else self.backbone.depth_of(inner)

    def _frames(self, clip: Tensor) -> Tensor:
        """Return all frames (B T, channels, H, W)."""
        check_image(clip, self.config, "per_frame")
        if clip.shape[2] != self.config.frames:
            raise ValueError(
                f"clip has {clip.shape[2]} frames; this per_frame takes {self.config.frames}: "
                "sample so many, or build it for yours"
            )
        return clip.transpose(1, 2).flatten(0, 1)


MODEL = PerFrame
