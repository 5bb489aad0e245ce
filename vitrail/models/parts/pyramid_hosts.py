"""Networks of maps on the levels of a pyramid: which hosts there are, what their heads share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models import (
    aa_resnet,
    airbench,
    botnet,
    cbam,
    coatnet,
    cswin,
    cvt,
    dinat,
    eca,
    evolving,
    gcnet,
    halonet,
    hornet,
    lesa,
    levit,
    lg_transformer,
    maxvit,
    mvit,
    nat,
    pvt,
    qna,
    resnet,
    sasa,
    senet,
    swin,
    volo,
)
from vitrail.models.trunk import hosts
from vitrail.models.trunk.backbone import Backbone, check_image
from vitrail.models.trunk.dense import Dense
from vitrail.models.trunk.positions import Table
from vitrail.models.trunk.sliding import resized

Pyramids = (
    aa_resnet.Config
    | airbench.Config
    | botnet.Config
    | cbam.Config
    | coatnet.Config
    | cswin.Config
    | cvt.Config
    | dinat.Config
    | eca.Config
    | evolving.Config
    | gcnet.Config
    | halonet.Config
    | hornet.Config
    | lesa.Config
    | levit.Config
    | lg_transformer.Config
    | maxvit.Config
    | mvit.Config
    | nat.Config
    | pvt.Config
    | qna.Config
    | resnet.Config
    | sasa.Config
    | senet.Config
    | swin.Config
    | volo.Config
)


class OnPyramid(Dense):
    """An image (B, channels, H, W) to scores of every pixel (B, classes, H, W), by all levels.

    `norms` are LayerNorms of the levels, `head` maps the normed maps (B, h, w, C), finest first, to
    scores (B, h, w, classes) at the finest. Nothing is padded but by the backbone itself.
    """

    def __init__(self, config: Any, head: nn.Module) -> None:
        backbone = hosted(config)
        super().__init__(config, backbone, head)
        self.norms = nn.ModuleList(nn.LayerNorm(level.channels) for level in self.levels)

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Return the normed maps (B, h, w, C) of the levels, finest first."""
        check_image(image, self.config, type(self).__name__.lower())
        maps = [norm(x) for norm, x in zip(self.norms, self.backbone.features(image), strict=True)]
        return maps if at is None else [maps[i] for i in at]

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b classes h w"]:
        scores = self.head(self.features(image)).movedim(-1, 1)
        return resized(scores, (image.shape[-2], image.shape[-1]))


class Finest(nn.Module):
    """The finest of some maps: the head of a network without classes."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return maps[0]


def hosted(config: Any) -> Backbone:
    """Return the backbone of a config, without what reads its last map for a label. Raises
    ValueError for one of clips."""
    if getattr(config.host, "frames", 1) > 1:
        raise ValueError(
            f"host.frames is {config.host.frames}: maps are of one image, take a host of frames 1"
        )
    made = hosts.host_module(config).MODEL(replace(config.host, classes=0))
    for name in ("norm", "pool", "head"):
        if hasattr(made, name) and not isinstance(getattr(made, name), nn.ModuleList):
            setattr(made, name, nn.Identity())
    return made


def widths(config: Any) -> list[int]:
    """Return the channels of the levels of a config's host."""
    return [level.channels for level in hosted(config).levels]


def positions(config: Any) -> tuple[Table, ...]:
    """Return the rows of the host's positions, which lie in the part `backbone`."""
    return tuple(
        row if row.name.startswith(".") else replace(row, name=f"backbone.{row.name}")
        for row in hosts.positions(config)
    )
