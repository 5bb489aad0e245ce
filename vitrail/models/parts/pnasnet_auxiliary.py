"""PNASNet's second classifier, which serves training only."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d, channels_first
from vitrail.models.trunk.heads import linear_head


class Auxiliary(nn.Module):
    """The head of training behind the second stage, on a rectified map (B, h, w, C) of an `image`
    that some stem cells have halved."""

    def __init__(self, dim: int, image: tuple[int, int], stem_cells: int, classes: int) -> None:
        super().__init__()
        if stem_cells:
            image = (image[0] - 3) // 2 + 1, (image[1] - 3) // 2 + 1
        size = [-(-side // (2 << stem_cells)) for side in image]
        self.pooled = min(size) >= 5
        height, width = ((side - 5) // 3 + 1 if self.pooled else side for side in size)
        self.conv1, self.norm1 = Conv2d(dim, 128, 1, bias=False), nn.BatchNorm2d(128)
        self.conv2 = Conv2d(128, 768, (height, width), bias=False)
        self.norm2, self.linear = nn.BatchNorm2d(768), linear_head(768, classes)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b k"]:
        x = channels_first(x)
        x = F.relu(self.norm1(self.conv1(F.avg_pool2d(x, 5, 3) if self.pooled else x)))
        return self.linear(F.relu(self.norm2(self.conv2(x))).mean((2, 3)))
