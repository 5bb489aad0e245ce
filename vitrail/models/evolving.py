"""Evolving attention in ResNets: every map of logits begins with the one of the block before.

Wang, Yang et al., "Evolving Attention with Residual Convolutions", ICML 2021, arXiv 2102.12895.
The hosts are attention-augmented ResNets (Bello et al., arXiv 1904.09925): in all stages but the
first some channels of the 3x3 convolution are attention to the whole map. Here its logits are
`alpha` parts of the logits of the block before and 1 - alpha of its own, then `beta` parts of a
3x3 convolution over the map of queries and keys with ReLU. Published is alpha 0.5, beta 1; the
code calls alpha "beta" and beta "alpha". Logits run through the whole network: those of the
second stage, whose attention is at half its resolution, go on into the third; the fourth is
smaller and starts anew.

What differs from other attention-augmented networks is the TensorFlow code's: keys come before
queries and values; pools are "SAME", so that even sides are padded at the end only and means are
of positions that exist; the attention at half resolution is resized from corner to corner without
a shift of half a pixel; tables of positions start at a mean, not a deviation, of 1 / sqrt(d).
Code was published for 50 layers; the others have their blocks, and 34 layers the augmented
convolution where aa_resnet has it, second in a block. Names in checkpoints count layers in the
order of their making; optimizer slots are to be left out.

Any height and width: at another size of map the tables of positions are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import channels_first, channels_last
from vitrail.layers.evolving import Evolution
from vitrail.layers.relative import TABLES
from vitrail.layers.residual import rising
from vitrail.layers.tokens import Mean
from vitrail.models import resnet
from vitrail.models.names import evolving as names
from vitrail.models.parts.evolving_conv import EvolvingConv, Pool
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import by_axis, offsets


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of an evolving ResNet. `keys` and `values` are the shares of a convolution's channels
    that the keys and the values of all heads have, `alpha` and `beta` those of evolution."""

    heads: int = 8
    keys: float = 0.25
    values: float = 0.125
    alpha: float = 0.5
    beta: float = 1.0

    @property
    def plan(self) -> list[list[Step]]:
        """Return the blocks of all stages, as `planned` has them."""
        return planned(self)


_COUNTED = "no figures of the publication were at hand"
VARIANTS = {
    "ea_aa_resnet_34": Variant(Config(expansion=1), note=_COUNTED),
    "ea_aa_resnet_50": Variant(Config(), params_m=24.968, note="parameters are the code's"),
    "ea_aa_resnet_101": Variant(Config(depths=(3, 4, 23, 3)), note=_COUNTED),
    "ea_aa_resnet_152": Variant(Config(depths=(3, 8, 36, 3)), note=_COUNTED),
}

SPACE = Small(
    Config(heads=2),
    {
        ("dims", "depths", "expansion", "stem_stride"): (
            ((16, 32, 64), (1, 2, 1), 1, 2),
            ((32, 64, 128), (1, 2, 1), 1, 2),
            ((32, 64, 128), (1, 2, 1), 1, 4),
            ((32, 64, 128), (2, 2, 2), 2, 4),
        ),
        "beta": (1.0, 0.5),
    },
)


NAMES = names.TABLES


def _entries(config: Config, stage: int, block: int) -> tuple[int, ...]:
    """Count the offsets between the rows and the columns of the map that a block attends to."""
    size = config.plan[stage][block].size
    return offsets((-(-config.image[0] // size), -(-config.image[1] // size)))


POSITIONS = by_axis("stages.{i}.blocks.{j}.mixer.position", _entries)


class Step(NamedTuple):
    """How a block is made: stride, whether its shortcut is a convolution, image pixels per
    position of its attention (0 without), whether that is at half resolution, and evolves."""

    stride: int
    shortcut: bool
    size: int
    halved: bool
    evolves: bool


def planned(config: Config) -> list[list[Step]]:
    """Plan the blocks of all stages; logits evolve where those before are of a map as large."""
    c, plan = config, []
    strides = (1, *(c.strides or (2,) * (len(c.depths) - 1)))
    if not len(c.depths) == len(c.dims) == len(strides):
        raise ValueError(
            f"depths {c.depths}, dims {c.dims} and strides {c.strides} differ in length: one "
            "each a stage, and strides of all but the first"
        )
    stride, before = c.stem_stride, 0
    dim_in = (c.stem_dims or c.dims[:1])[-1]
    for i, (depth, inner) in enumerate(zip(c.depths, c.dims, strict=True)):
        stride, dim, stage = stride * strides[i], int(inner * c.expansion), []
        for j in range(depth):
            step = strides[i] if j == 0 else 1
            size = stride * (2 if i == 1 else 1) if i else 0
            evolves = 0 < size == before and bool(c.alpha or c.beta)
            stage.append(Step(step, dim_in != dim or step > 1, size, i == 1, evolves))
            before, dim_in = size, dim
        plan.append(stage)
    return plan


class EvolvingBasic(resnet.Basic):
    """A residual block whose mixer takes the logits of the block before and gives its own:
    ((B, h, w, C), logits) to ((B, h', w', C'), logits)."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b h w c"], before: Tensor | None = None
    ) -> tuple[Float[Tensor, "b h2 w2 c2"], Tensor]:
        x = channels_first(x)
        y, logits = self.mixer(self.conv1.then(x, self.act), before)
        return channels_last(self._closed(self.norm(y), self.shortcut(x))), logits


class EvolvingBottleneck(resnet.Bottleneck):
    """As `EvolvingBasic`, with 1x1 convolutions around the mixer."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Float[Tensor, "b h w c"], before: Tensor | None = None
    ) -> tuple[Float[Tensor, "b h2 w2 c2"], Tensor]:
        x = channels_first(x)
        y, logits = self.mixer(self.conv1.then(x, self.act), before)
        y, other = self.act(self.norm(y)), self.shortcut(x)
        if self._plain:
            return channels_last(self.conv3.joined(y, other, self.act)), logits
        return channels_last(self._closed(self.conv3(y), other)), logits


class EvolvingResNet(Pyramid):
    """Stem, a stage of plain residual blocks, stages of evolving ones, mean, linear head."""

    undecayed = TABLES

    def __init__(self, config: Config) -> None:
        c, stages, levels = config, [], []
        plan, dim_in, stride = c.plan, (c.stem_dims or c.dims[:1])[-1], c.stem_stride
        kinds = [(resnet.Basic, EvolvingBasic), (resnet.Bottleneck, EvolvingBottleneck)]
        plain, evolving = kinds[c.expansion != 1]
        rates = iter(rising(c.drop_path, sum(c.depths)))
        for i, (steps, inner) in enumerate(zip(plan, c.dims, strict=True)):
            blocks, dim = [], int(inner * c.expansion)
            for step in steps:
                # In a basic block the first convolution has the stride.
                inside = step.stride if c.expansion != 1 else 1
                if i == 0:
                    block, mixer = plain, resnet.convolution(i, 0, inner, inside)
                else:
                    block, mixer = evolving, _mixer(c, inner, step, inside)
                blocks.append(block(dim_in, inner, dim, step.stride, mixer, drop_path=next(rates)))
                dim_in = dim
            stride *= steps[0].stride
            stages.append(Stage(nn.Identity(), blocks))
            levels.append(Level(stride, dim_in))
        stem = resnet.Stem(c)
        if c.stem_stride == 4:
            stem.pool = Pool()  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(
            config,
            stem=stem,
            stages=stages,
            norm=nn.Identity(),
            pool=Mean(),
            head=linear_head(dim_in, c.classes),
            levels=levels,
        )
        _initialised(self)

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        maps, x, logits = [], self.stem(image), None
        for stage in cast(list[Stage], self.stages):
            for block in stage.blocks:
                if isinstance(block, EvolvingBasic | EvolvingBottleneck):
                    x, logits = stage.blocks.run(block, x, logits)
                else:
                    x = stage.blocks.run(block, x)
            maps.append(x)
        return maps if at is None else [maps[i] for i in at]


def _mixer(config: Config, dim: int, step: Step, stride: int) -> EvolvingConv:
    c, (h, w) = config, config.image
    return EvolvingConv(
        dim,
        keys=int(c.keys * dim),
        values=int(c.values * dim),
        heads=c.heads,
        grid=(-(-h // step.size), -(-w // step.size)),
        stride=stride,
        halved=step.halved,
        evolution=Evolution(c.heads, c.alpha, c.beta, nn.ReLU()) if step.evolves else None,
    )


def _initialised(model: nn.Module) -> None:
    """Initialise kernels truncated normal of variance 1 / fan-in, biases 0; the tables as the code
    has them: of deviation 1 around 1 / sqrt(d).
    """
    for name, p in model.named_parameters():
        if p.ndim == 4:
            # A normal cut at two deviations has 0.8796 of its deviation.
            std = p[0].numel() ** -0.5 / 0.8796
            nn.init.trunc_normal_(p, std=std, a=-2 * std, b=2 * std)
        elif name.endswith(TABLES):
            nn.init.normal_(p, p.shape[1] ** -0.5)
    for m in model.modules():
        if isinstance(m, nn.Conv2d) and m.bias is not None:
            nn.init.zeros_(m.bias)


MODEL = EvolvingResNet
