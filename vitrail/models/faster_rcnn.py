"""Faster R-CNN: a first stage proposes where objects may be, a second looks at each place itself.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
NeurIPS 2015, arXiv 1506.01497, on a pyramid as of Lin et al., CVPR 2017, arXiv 1612.03144. Anchors
are judged first; of the likeliest, what overlaps less is read by RoIAlign (He et al., ICCV 2017,
arXiv 1703.06870) and gets a class and a better box.

Heads and losses are torchvision's; as many proposals are made in training as afterwards, where
torchvision makes twice as many. Any backbone of the catalog may be the host, as of RetinaNet. There
is no golden: no published weights have these hosts' names.
"""

from __future__ import annotations

from dataclasses import dataclass

from vitrail.models import resnet
from vitrail.models.parts.box_hosts import Hosts
from vitrail.models.parts.pyramid_hosts import positions
from vitrail.models.parts.two_stages import TwoStages
from vitrail.models.trunk import hosts

_RESNET = resnet.Config()


@dataclass(frozen=True)
class Config(hosts.Hosted):
    """A backbone, `host`, the channels `width` of the pyramid (a multiple of 8), the stride of the
    `finest` level at least, `extra` coarser levels, at most so many `proposals`, and the `hidden`
    width of the head that judges them."""

    host: Hosts = _RESNET
    width: int = 256
    finest: int = 4
    extra: int = 1
    proposals: int = 1000
    hidden: int = 1024


BOXES: dict[str, Config] = {}
NAMES: dict[str, list] = {}
POSITIONS = positions


class FasterRcnn(TwoStages):
    """A backbone under Faster R-CNN: an image (B, channels, H, W) to what is seen of it.

    `found` reads boxes off. Raises ValueError for images of other channels.

    Examples:
        >>> import torch, vitrail
        >>> from vitrail.models import faster_rcnn, resnet
        >>> host = resnet.Config(image=(64, 96), classes=5)
        >>> config = faster_rcnn.Config(host, width=32, proposals=50, hidden=64)
        >>> model = vitrail.create(config).eval()
        >>> raw = model(torch.zeros(1, 3, 64, 96))
        >>> raw.proposals.boxes.shape
        torch.Size([1, 50, 4])
        >>> len(model.found(raw))
        1
    """


MODEL = FasterRcnn
