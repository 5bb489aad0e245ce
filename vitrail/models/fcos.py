"""FCOS: every place in the middle of an object says how far its four sides are.

Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, arXiv 1904.01355. No
anchors: a place learns from the smallest object whose middle it lies in and whose size suits its
level; a centre-ness says how much in the middle it lies, and scores are the geometric mean of that
and the class.

The heads are torchvision's, with its sampling of 1.5 strides around the centre; distances are in
strides. Any backbone of the catalog may be the host, as of RetinaNet. There is no golden: no
published weights have these hosts' names.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.boxes import Answers, inside
from vitrail.models.parts.box_hosts import GROUP, OneStage, check_width, hosted, neck
from vitrail.models.parts.box_losses import BACKGROUND, IGNORED, apart, focal, in_crowds, objects
from vitrail.models.parts.pyramid_hosts import positions
from vitrail.models.trunk.detector import Detector, Place

# How far from an object's centre places learn from it, in strides.
RADIUS = 1.5
# A level takes objects of so many strides.
SMALLEST, LARGEST = 4, 8


@dataclass(frozen=True)
class Config(OneStage):
    """A backbone under FCOS; `box_hosts.OneStage` has the sizes."""


BOXES: dict[str, Config] = {}
NAMES: dict[str, list] = {}
POSITIONS = positions


class Head(nn.Module):
    """Levels (B, width, h, w) to (B, places, 4 + 1 + classes): distances in strides, the logits of
    centre-ness and of classes."""

    def __init__(self, width: int, classes: int) -> None:
        from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

        super().__init__()
        norm = partial(nn.GroupNorm, width // GROUP)
        self.classes = FCOSClassificationHead(width, 1, classes, norm_layer=norm)
        self.boxes = FCOSRegressionHead(width, 1, norm_layer=norm)

    def forward(self, levels: list[Tensor]) -> Tensor:
        return torch.cat([*self.boxes(levels), self.classes(levels)], -1)


class Fcos(Detector):
    """A backbone under FCOS: an image (B, channels, H, W) to (B, places, 5 + classes).

    The first four are boxes in shares of the sides, then the logits of centre-ness and of classes.
    `answers` reads boxes and scores off, `layers.boxes.best` keeps the best. Raises ValueError
    for images of other channels.

    Examples:
        >>> import torch, vitrail
        >>> from vitrail.models import fcos, vit
        >>> host = vit.Config(dim=32, depth=1, heads=2, image=(64, 96), classes=5)
        >>> model = vitrail.create(fcos.Config(host, width=32)).eval()
        >>> model(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 131, 10])
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
        h, w = image.shape[-2:]
        place, sides = self.places((h, w), said.device), said.new_tensor([w, h])
        reach = said[..., :4] * place.strides[:, None].to(said.dtype)
        centres = place.centres.to(said.dtype)
        low, high = (centres - reach[..., :2]) / sides, (centres + reach[..., 2:]) / sides
        return torch.cat([low, high, said[..., 4:]], -1)

    def answers(self, raw: Tensor) -> Answers:
        """Return boxes inside of the image, and how sure each class is."""
        scores = (raw[..., 5:].sigmoid() * raw[..., 4:5].sigmoid()).sqrt()
        return inside(raw[..., :4], scores)

    def losses(self, raw: Tensor, targets: Tensor, image: tuple[int, int]) -> dict[str, Tensor]:
        """Return the losses of classes, boxes and centre-ness, and their sum,
        for each place of an object.
        """
        place, sides = self.places(image, raw.device), raw.new_tensor(image[::-1])
        found = [assigned(place, one, sides, self._most) for one in targets]
        labels, boxes = (torch.stack(parts) for parts in zip(*found, strict=True))
        own = labels >= 0
        total = own.sum().clamp(min=1)
        truth = boxes[own].to(raw.dtype)
        middle = centredness(
            (place.centres.to(raw.dtype) / sides).expand(*own.shape, 2)[own], truth
        )
        classes = focal(raw[..., 5:], labels) / total
        places = apart(raw[..., :4][own], truth) / total
        centres = F.binary_cross_entropy_with_logits(raw[..., 4][own], middle, reduction="sum")
        centres = centres / total
        terms = {"classes": classes, "boxes": places, "centres": centres}
        return {"loss": classes + places + centres, **terms}

    @property
    def _most(self) -> tuple[int, int]:
        """Return the strides of the finest and of the coarsest level."""
        strides = self.neck.strides
        return strides[0], strides[-1]  # pyright: ignore


def assigned(
    place: Place, targets: Tensor, sides: Tensor, ends: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the class (n,), or `BACKGROUND` or `IGNORED`, and the box (n, 4) in shares of each
    place.

    `sides` are (W, H) in pixels, `ends` the strides of the finest and the coarsest level, which
    take all that is smaller and larger.
    """
    boxes, kinds, crowds = objects(targets)
    centres, strides = place.centres, place.strides
    labels = torch.full((len(centres),), BACKGROUND, device=centres.device)
    found = torch.zeros(len(centres), 4, device=centres.device)
    if len(boxes):
        pixels = boxes * sides.repeat(2)
        reach = torch.cat(
            [centres[:, None] - pixels[None, :, :2], pixels[None, :, 2:] - centres[:, None]], -1
        )
        off = (centres[:, None] - (pixels[:, :2] + pixels[:, 2:])[None] / 2).abs().amax(-1)
        most = reach.amax(-1)
        least = torch.where(strides == ends[0], 0.0, SMALLEST * strides)[:, None]
        up_to = torch.where(strides == ends[1], torch.inf, LARGEST * strides)[:, None]
        fits = (off < RADIUS * strides[:, None]) & (reach.amin(-1) > 0)
        fits &= (most > least) & (most < up_to)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        smallest, which = torch.where(fits, area[None], torch.inf).min(1)
        own = smallest < torch.inf
        labels[own], found[own] = kinds[which[own]], boxes[which[own]].to(found.dtype)
    points = (centres / sides).repeat(1, 2)
    cell = strides[:, None] / sides.repeat(2) / 2 * points.new_tensor([-1, -1, 1, 1])
    labels[in_crowds(points + cell, crowds) & (labels == BACKGROUND)] = IGNORED
    return labels, found


def centredness(points: Float[Tensor, "n 2"], boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n"]:
    """Return how much in the middle of its box each point lies: 1 there, 0 at a side."""
    low, high = points - boxes[:, :2], boxes[:, 2:] - points
    shares = torch.minimum(low, high) / torch.maximum(low, high)
    return shares.prod(-1).clamp(min=0).sqrt()


MODEL = Fcos
