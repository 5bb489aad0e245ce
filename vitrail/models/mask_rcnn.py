"""Mask R-CNN: Faster R-CNN that also says which pixels of a box are the object's.

He et al., "Mask R-CNN", ICCV 2017, arXiv 1703.06870. What was found is read by RoIAlign once more,
at 14x14, and a small convolutional network says of 28x28 places of the box, for each class apart,
whether they are inside of the object. Box and class are learned as without masks; masks learn from
the regions that are an object's own.

Heads are torchvision's. Any backbone of the catalog may be the host, as of RetinaNet. There is no
golden: no published weights have these hosts' names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitrail.layers.boxes import Chosen
from vitrail.layers.outlines import drawn_in
from vitrail.models import resnet
from vitrail.models.parts.box_hosts import Hosts
from vitrail.models.parts.proposals import Proposals
from vitrail.models.parts.pyramid_hosts import positions
from vitrail.models.parts.regions import Places, of_batch, regions
from vitrail.models.parts.two_stages import Drawn, Seen, TwoStages, exact
from vitrail.models.trunk import hosts

_RESNET = resnet.Config()
# The side of what is read from a box, half that of its mask.
READ = 14


@dataclass(frozen=True)
class Config(hosts.Hosted):
    """A backbone, `host`, the channels `width` of the pyramid (a multiple of 8), the stride of the
    `finest` level at least, `extra` coarser levels, at most so many `proposals`, the `hidden` width
    of the head that judges them, and the channels of the `drawing` layers of masks."""

    host: Hosts = _RESNET
    width: int = 256
    finest: int = 4
    extra: int = 1
    proposals: int = 1000
    hidden: int = 1024
    drawing: tuple[int, ...] = (256, 256, 256, 256)


BOXES: dict[str, Config] = {}
NAMES: dict[str, list] = {}
POSITIONS = positions


class MaskRcnn(TwoStages):
    """A backbone under Mask R-CNN: an image (B, channels, H, W) to what is seen of it.

    `found` reads boxes and masks off. Raises ValueError for images of other channels.

    Examples:
        >>> import torch, vitrail
        >>> from vitrail.models import mask_rcnn, resnet
        >>> host = resnet.Config(image=(64, 96), classes=5)
        >>> config = mask_rcnn.Config(host, width=32, proposals=50, hidden=64, drawing=(32,))
        >>> model = vitrail.create(config).eval()
        >>> [found] = model.found(model(torch.zeros(1, 3, 64, 96)))
        >>> found.masks.shape[1:]
        torch.Size([28, 28])
    """

    def __init__(self, config: Config) -> None:
        from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

        if not config.drawing:
            raise ValueError("drawing is empty: give the channels of one layer at least")
        super().__init__(config)
        last = config.drawing[-1]
        self.masks = nn.Sequential(
            MaskRCNNHeads(config.width, config.drawing, 1),
            MaskRCNNPredictor(last, last, config.classes or 1),
        )

    def choose(
        self, levels: list[Tensor], proposed: Proposals, said: Tensor, image: tuple[int, int]
    ) -> Chosen:
        """Return what is found, each with its mask (28, 28) from 0 to 1 over its box."""
        found = super().choose(levels, proposed, said, image)
        places, labels = of_batch(found.boxes), found.labels.flatten()
        masks = self.outlined(levels, places, labels, image).sigmoid()
        return found._replace(masks=masks.unflatten(0, found.labels.shape))

    def outlined(
        self, levels: list[Tensor], places: Places, labels: Tensor, image: tuple[int, int]
    ) -> Tensor:
        """Return logits (R, 28, 28) of the masks of some regions, each for its class (R,)."""
        said = exact(self.masks(regions(levels, places, self.strides, image, READ)))
        which = labels[:, None, None, None].expand(-1, 1, *said.shape[2:])
        return said.gather(1, which)[:, 0]

    def of_regions(
        self, raw: Seen, some: Drawn, targets: Tensor, image: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return the losses of regions, "masks" among them, the mean over places of objects' own.

        Raises ValueError for targets without outlines.
        """
        terms = super().of_regions(raw, some, targets, image)
        own = some.kinds >= 0
        places = Places(some.places.boxes[own], some.places.image[own])
        said = self.outlined(raw.levels, places, some.kinds[own], image)
        with torch.no_grad():
            rows = targets[places.image, some.row[own]]
            truth = drawn_in(places.boxes, rows, 2 * READ).to(said.dtype)
        total = F.binary_cross_entropy_with_logits(said, truth, reduction="sum")
        return terms | {"masks": total / max(1, truth.numel())}


MODEL = MaskRcnn
