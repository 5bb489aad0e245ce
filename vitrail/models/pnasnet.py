"""PNASNet: a cell found by growing cells block by block, stacked.

Liu, Zoph, Neumann, Shlens, Hua, Li, Fei-Fei, Yuille, Huang, Murphy, "Progressive Neural
Architecture Search", ECCV 2018, arXiv 1712.00559.

A cell reads the outputs of the two cells before it. Each node of its genotype adds two operations
on earlier states, and nodes are concatenated; a reduction cell is the same cell, whose operations
on its two inputs have stride 2. What a cell hands on is rectified in place, since all its readers
begin with a ReLU; inside a cell a state is rectified once, and equal pools are computed once.

Readings:
- `padding`: "same" is TensorFlow's, for which the authors' weights were trained (timm has it);
  "symmetric" is that of the authors' PyTorch port. They agree where no even side is halved.
- Any image of 3x3 pixels or more: the first convolution has no padding, so its map has one
  position less than half of an even side; each reduction rounds up. The second path of a
  factorised reduction, shifted by a pixel, sees zeros beyond odd sides.
- All nodes are concatenated, as in the published cell, although one node reads another; with
  `concat=loose_ends(genotype)` only those that none reads, the rule of the paper's search.
- Operations of the search space that the published cell has not: 1x7 then 7x1 and the dilated 3x3
  (rate 2) are dense convolutions, each with ReLU before and BatchNorm behind it; average pools
  leave padding out of the mean.
- Drop path drops operations (not identities) with a probability that rises linearly to `drop_path`
  in the last cell. The paper's rise with the training step is left to the training.
- The CIFAR net is the same stack without stem cells, its stem as wide as F: 3.16 M parameters,
  published as 3.2; with reductions between the stages, as in NASNet, it would have 4.25.
- The auxiliary classifier serves training only: `auxiliary` builds it, `deploy` drops it, and the
  weights of published ones are left out. Maps of fewer than 5x5 places are not pooled for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, channels_last
from vitrail.layers.genotype import Genotype, check
from vitrail.layers.mbconv import same, symmetric
from vitrail.layers.residual import Blocks
from vitrail.layers.tokens import Mean
from vitrail.models.names import pnasnet as names
from vitrail.models.parts.pnasnet_auxiliary import Auxiliary
from vitrail.models.parts.pnasnet_cells import EPS, OPERATIONS, Cell, Factorised, Pointwise
from vitrail.models.trunk.backbone import HALF, Backbone, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head

PNASNET_5: Genotype = (
    ("sep_5x5", 0), ("max_3x3", 0),
    ("sep_7x7", 1), ("max_3x3", 1),
    ("sep_5x5", 1), ("sep_3x3", 1),
    ("sep_3x3", 4), ("max_3x3", 1),
    ("sep_3x3", 0), ("identity", 1),
)  # fmt: skip


PADDINGS = {"same": same, "symmetric": symmetric}


@dataclass(frozen=True)
class Config:
    """Sizes of a PNASNet: `dim` channels a node in the first of three stages, `depth` cells each.

    Before them come a convolution to `stem_dim` channels and `stem_cells` reduction cells of
    falling fractions of `dim`; without those it has stride 1, for small images. The first cells of
    the later stages are reductions. `concat` are the states that make a cell's output, all nodes
    if there are none.
    """

    dim: int = 54
    depth: int = 3
    stem_dim: int = 32
    stem_cells: int = 2
    genotype: Genotype = PNASNET_5
    concat: tuple[int, ...] = ()
    padding: str = "same"
    drop_path: float = 0.0
    auxiliary: bool = False
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_MOBILE, _LARGE = Config(), Config(dim=216, depth=4, stem_dim=96, image=(331, 331))
VARIANTS = {
    "pnasnet5_mobile": Variant(_MOBILE, params_m=5.064, flops_g=0.588, top1=74.2),
    "pnasnet5_large": Variant(
        _LARGE,
        params_m=86.058,
        flops_g=25.0,
        top1=82.9,
        hub={"timm": "hf-hub:timm/pnasnet5large.tf_in1k"},
    ),
    "pnasnet5_mobile_symmetric": Variant(
        replace(_MOBILE, padding="symmetric"), params_m=5.064, flops_g=0.588
    ),
    "pnasnet5_large_symmetric": Variant(
        replace(_LARGE, padding="symmetric"), params_m=86.058, flops_g=25.0
    ),
    "pnasnet5_cifar": Variant(
        Config(dim=48, stem_dim=48, stem_cells=0, image=(32, 32), classes=10), params_m=3.2
    ),
}

SPACE = Small(
    Config(stem_dim=16, padding="symmetric"),
    {"dim": (8, 12, 16, 24), "depth": (1, 2), "stem_cells": (2, 1, 0)},
)


TAKES = HALF  # unless a variant's reference says otherwise
NAMES = names.TABLES


class Stem(nn.Module):
    """3x3 convolution and BatchNorm: image to (B, h, w, C); stride 2 and no padding before stem
    cells, else stride 1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        stride, padding = (2, 0) if config.stem_cells else (1, 1)
        self.conv = ConvNorm(config.channels, config.stem_dim, 3, stride=stride, padding=padding)
        if isinstance(self.conv.norm, nn.BatchNorm2d):
            self.conv.norm.eps = EPS

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "pnasnet")
        if self.config.stem_cells and min(image.shape[2:]) < 3:
            h, w = image.shape[2:]
            raise ValueError(f"image is {h}x{w}; a stem without padding needs 3x3 pixels or more")
        return channels_last(self.conv(image.contiguous(memory_format=torch.channels_last)))


def _check(c: Config) -> None:
    """Raise ValueError unless the genotype and the sizes make a net."""
    check(c.genotype, OPERATIONS)
    if c.padding not in PADDINGS:
        raise ValueError(f"padding is {c.padding!r}; there are {', '.join(PADDINGS)}")
    if c.depth < 1 or c.stem_cells < 0 or c.dim >> c.stem_cells < 2:
        raise ValueError(
            f"dim {c.dim}, depth {c.depth} and stem_cells {c.stem_cells} make no net: at least one "
            "cell a stage, and two channels after halving dim for each stem cell"
        )
    states = range(2, 2 + len(c.genotype) // 2)
    if not set(c.concat) <= set(states) or len(set(c.concat)) < len(c.concat):
        raise ValueError(
            f"concat is {c.concat}; the nodes of this genotype are states 2 to {states[-1]}, each "
            "at most once"
        )
    lost = {*states} - {*(c.concat or states)} - {state for _, state in c.genotype}
    if lost:
        raise ValueError(
            f"state {min(lost)} is neither read nor concatenated: add it to concat or leave its "
            "node out"
        )


class PNASNet(Backbone):
    """Stem, cells that each read the two before, mean, linear head; in training logits of the
    auxiliary head as well.

    Maps are the stem's output and those of the last cell of each stride, rectified; without stem
    cells, of cells only.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        _check(c)
        self.config, self.stem, self.blocks = c, Stem(c), Blocks([])
        # Width and stride of each cell.
        plan = [(c.dim >> i, 2) for i in range(c.stem_cells, 0, -1)]
        for i in range(3):
            plan += [(c.dim << i, 2 if i and not j else 1) for j in range(c.depth)]
        concat = c.concat or tuple(range(2, 2 + len(c.genotype) // 2))
        # Stride and width of the map before the last one, and of the last one.
        before = last = Level(2 if c.stem_cells else 1, c.stem_dim)
        levels, ends = [last] if c.stem_cells else [], []
        for i, (dim, stride) in enumerate(plan):
            left = None
            if i > 0 or not c.stem_cells:
                adjust = Pointwise if before.stride == last.stride else Factorised
                left = adjust(before.channels, dim)
            cell = Cell(
                c.genotype,
                dim,
                (last.channels, before.channels),
                left,
                concat=concat,
                pads=PADDINGS[c.padding],
                stride=stride,
                drop_path=c.drop_path * (i + 1) / len(plan),
            )
            self.blocks.append(cell)
            before, last = last, Level(last.stride * stride, len(concat) * dim)
            if i + 1 == len(plan) or plan[i + 1][1] == 2:
                levels.append(last)
                ends.append(i)
        self.levels, self._ends, self.width = tuple(levels), tuple(ends), last.channels
        self.pool, self.head = Mean(), linear_head(self.width, c.classes)
        self.auxiliary: Auxiliary | None = None
        if c.auxiliary:
            self.auxiliary = Auxiliary(self.levels[-2].channels, c.image, c.stem_cells, c.classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                # Nodes are sums of two: with He's gain each cell would double its map.
                nn.init.kaiming_normal_(m.weight, nonlinearity="linear")

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        before = self.stem(image)
        maps, x = [], F.relu(before)
        if self.config.stem_cells:
            maps.append(before)
        else:
            before = x  # only a stem cell reads the stem's map as it is
        for i, block in enumerate(self.blocks):
            x, before = self.blocks.run(block, x, before), x
            if i in self._ends:
                maps.append(x)
        return maps if at is None else [maps[i] for i in at]

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        return self.pool(self.features(image)[-1])

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Tensor | tuple[Tensor, Tensor]:
        if self.auxiliary is None or not self.training:
            return super().forward(image)
        maps = self.features(image)
        return self.head(self.pool(maps[-1])), self.auxiliary(maps[-2])

    def deployed(self) -> nn.Module:
        """Drop the auxiliary head."""
        self.auxiliary = None
        return self

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies; the auxiliary head is as deep as the head."""
        return self.depth if name.startswith("auxiliary.") else super().depth_of(name)


ATTENDS = False  # no part of it has weights that sum to one
UNPADDED = (2,)  # strides whose maps lack a position where the image's side is even
MODEL = PNASNet
