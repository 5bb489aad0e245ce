"""RetinaNet: one head on every level of a pyramid says of nine anchors a place what they hold.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002. Anchors of three
sizes and three shapes stand at each place; those that overlap an object by half are its own, those
below 0.4 are background, and the focal loss keeps the many easy ones from drowning the rest.

The heads are torchvision's with GroupNorms, and boxes learn by their generalized overlap, both as
in torchvision's second version. Any backbone of the catalog may be the host: levels get an FPN, a
plain one the simple pyramid of ViTDet. An image is taken as it comes, at one size for all, where
the authors keep its shape. There is no golden: no published weights have these hosts' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.boxes import Answers, inside
from vitrail.models.parts import box_losses
from vitrail.models.parts.box_coding import corrected
from vitrail.models.parts.box_hosts import GROUP, OneStage, check_width, hosted, neck
from vitrail.models.parts.box_losses import apart, focal
from vitrail.models.parts.pyramid_hosts import positions
from vitrail.models.trunk.detector import Detector

_SIZES = tuple(4 * 2 ** (i / 3) for i in range(3))
_SHAPES = (0.5, 1.0, 2.0)
ANCHORS = len(_SIZES) * len(_SHAPES)
# Overlaps from which an anchor is an object's own, and below which it is background.
OWN, APART = 0.5, 0.4


@dataclass(frozen=True)
class Config(OneStage):
    """A backbone under RetinaNet; `box_hosts.OneStage` has the sizes."""


BOXES: dict[str, Config] = {}
NAMES: dict[str, list] = {}
POSITIONS = positions


class Head(nn.Module):
    """Levels (B, width, h, w) to (B, places * anchors, 4 + classes): corrections and logits."""

    def __init__(self, width: int, classes: int) -> None:
        from torchvision.models.detection.retinanet import (
            RetinaNetClassificationHead,
            RetinaNetRegressionHead,
        )

        super().__init__()
        norm = partial(nn.GroupNorm, width // GROUP)
        self.classes = RetinaNetClassificationHead(width, ANCHORS, classes, norm_layer=norm)
        self.boxes = RetinaNetRegressionHead(width, ANCHORS, norm_layer=norm)

    def forward(self, levels: list[Tensor]) -> Tensor:
        return torch.cat([self.boxes(levels), self.classes(levels)], -1)


class RetinaNet(Detector):
    """A backbone under RetinaNet: an image (B, channels, H, W) to (B, anchors, 4 + classes).

    The first four are boxes in shares of the sides, the others logits. `answers` reads both off,
    `layers.boxes.best` keeps the best. Raises ValueError for images of other channels.

    Examples:
        >>> import torch, vitrail
        >>> from vitrail.models import resnet, retinanet
        >>> from vitrail.layers.boxes import best
        >>> host = resnet.Config(image=(64, 96), classes=5)
        >>> model = vitrail.create(retinanet.Config(host, width=32)).eval()
        >>> raw = model(torch.zeros(1, 3, 64, 96))
        >>> raw.shape
        torch.Size([1, 1161, 9])
        >>> len(best(model.answers(raw)))
        1
    """

    head: Head

    def __init__(self, config: Config) -> None:
        check_width(config.width)
        backbone = hosted(config)
        made = neck(backbone.levels, config.width, config.finest, config.extra)
        super().__init__(config, backbone, made, Head(config.width, config.classes or 1))

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        said = self.head(self.levels_of(image))
        said = said if said.dtype == torch.float64 else said.float()
        anchors = self.anchors((image.shape[-2], image.shape[-1]), said)
        return torch.cat([corrected(anchors, said[..., :4]), said[..., 4:]], -1)

    def anchors(self, image: tuple[int, int], like: Tensor) -> Float[Tensor, "n 4"]:
        """Return the anchors of images of (H, W) that it has seen, in shares of the sides."""
        place = self.places(image, like.device)
        shapes = [(size / shape**0.5, size * shape**0.5) for size in _SIZES for shape in _SHAPES]
        half = place.strides[:, None, None] * torch.tensor(shapes, device=like.device) / 2
        corners = [place.centres[:, None] - half, place.centres[:, None] + half]
        sides = torch.tensor(image[::-1], device=like.device).repeat(2)
        return (torch.cat(corners, -1).flatten(0, 1) / sides).to(like.dtype)

    def answers(self, raw: Tensor) -> Answers:
        """Return boxes inside of the image, and how sure each class is."""
        return inside(raw[..., :4], raw[..., 4:].sigmoid())

    def losses(self, raw: Tensor, targets: Tensor, image: tuple[int, int]) -> dict[str, Tensor]:
        """Return the focal loss of classes, the loss of boxes, and their sum, for each object."""
        anchors = self.anchors(image, raw)
        labels, boxes = zip(*(matched(anchors, one) for one in targets), strict=True)
        labels, boxes = torch.stack(labels), torch.stack(boxes)
        own = labels >= 0
        total = own.sum().clamp(min=1)
        classes = focal(raw[..., 4:], labels) / total
        places = apart(raw[..., :4][own], boxes[own].to(raw.dtype)) / total
        return {"loss": classes + places, "classes": classes, "boxes": places}


def matched(anchors: Float[Tensor, "n 4"], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the class (n,), or `BACKGROUND` or `IGNORED`, and the box (n, 4) of each anchor."""
    labels, row = box_losses.matched(anchors, targets, OWN, APART)
    return labels, targets[row, 1:5].to(anchors.dtype) * (labels >= 0)[:, None]


MODEL = RetinaNet
