"""BATS: searched cells whose convolutions are grouped, so that they stand being binary.

Bulat, Martinez, Tzimiropoulos, "BATS: Binary ArchitecTure Search", ECCV 2020, arXiv 2003.01711. A
network of two kinds of cells, as in DARTS (Liu et al., ICLR 2019, arXiv 1806.09055), whose
depthwise convolutions gave way to grouped ones: a depthwise filter of signs sums nine of them,
and takes a handful of values. A channel shuffle behind mixes the groups, and every convolution of
stride 1 has its own shortcut, which stays real. The operations keep DARTS's names: `sep_conv` is
grouped, `dil_conv` grouped and dilated.

The order in a layer is BatchNorm, sign, convolution, learned scale, PReLU. What is binary is the
config's `binary`: "none", "inputs" (the first stage of a training), "sign", "xnor" or
"xnor_centred"; `BATS.binarised` leads from the first stage to the second. Stem, head and
auxiliary head are always real.

Readings. The searched cells are printed in the paper as figures only: NORMAL and REDUCE here are
cells that use every operation, not the searched ones, and take a genotype of yours instead. The
shuffle has 4 groups whatever the convolutions have. Stochastic depth keeps whole samples of an
operation, as intended; the public code raises. The map from which the ImageNet net's first cell
reads is rectified, since the public code does so in place. A reduction by two 1x1 convolutions,
one shifted by a pixel, pads maps of odd sides with zeros below and right, where the public code
fails; sides are then rounded up. The auxiliary head gives second logits in training, which this
library weighs as the first, and `deploy` drops it; maps on which its pooling finds less than 2x2
places are pooled to that. Shake-shake is left out.

Deployed, binary sums are products of bytes, equal bit by bit (`layers.binary`). `packed` gives the
weights as bits, a file that `vitrail.load` reads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.binary import BINARISERS, BinaryConv2d, convolution, pack, unpack
from vitrail.layers.conv import Conv2d, ConvNorm, channels_first, channels_last
from vitrail.layers.genotype import Genotype, check
from vitrail.layers.residual import Blocks
from vitrail.layers.tokens import Mean
from vitrail.models.parts.bats_cells import OPERATIONS, SHUFFLED, Cell, Operation
from vitrail.models.trunk.backbone import Backbone, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head

NORMAL: Genotype = (
    ("sep_conv_3x3", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_5x5", 2),
    ("avg_pool_3x3", 1), ("dil_conv_5x5", 3), ("max_pool_3x3", 2), ("skip_connect", 4),
)  # fmt: skip
REDUCE: Genotype = (
    ("max_pool_3x3", 0), ("sep_conv_3x3", 1), ("skip_connect", 0), ("dil_conv_5x5", 2),
    ("sep_conv_5x5", 1), ("avg_pool_3x3", 0), ("dil_conv_3x3", 1), ("skip_connect", 4),
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Sizes of a BATS network: `dim` channels of a node in the first of `cells`, twice as many
    from each of the two reductions on.

    `groups` are those of the convolutions. `normal` and `reduce` are genotypes; a cell
    concatenates the states `normal_concat` or `reduce_concat`, all its nodes if there are none.
    `stem` is "cifar" (stride 1) or "imagenet" (stride 8).
    """

    dim: int = 36
    cells: int = 20
    groups: int = 12
    normal: Genotype = NORMAL
    reduce: Genotype = REDUCE
    normal_concat: tuple[int, ...] = ()
    reduce_concat: tuple[int, ...] = ()
    stem: str = "cifar"
    binary: str = "sign"
    auxiliary: bool = True
    drop_path: float = 0.0
    image: tuple[int, int] = (32, 32)
    channels: int = 3
    classes: int = 10


_NOTE = (
    "the searched cells are published as figures only; this net has cells of the same operations "
    "instead, so the paper's {} are not its own"
)
_IMAGENET = Config(dim=48, cells=14, stem="imagenet", image=(224, 224), classes=1000)
VARIANTS = {
    "bats_cifar": Variant(
        Config(drop_path=0.2), note=_NOTE.format("96.1 % on CIFAR-10 and 76.8 % on CIFAR-100")
    ),
    "bats_cifar_real": Variant(
        Config(binary="none", drop_path=0.2), note=_NOTE.format("figures of real cells")
    ),
    "bats_imagenet": Variant(_IMAGENET, note=_NOTE.format("60.4 % on ImageNet")),
}

# Real nets: one sign of millions that another runtime's rounding turns changes logits by more
# than an exported file may differ.
SPACE = Small(
    Config(cells=5, binary="none", auxiliary=False),
    {
        ("dim", "groups"): ((16, 4), (24, 6), (32, 8), (48, 12)),
        "cells": (5, 8),
        "stem": ("cifar", "imagenet"),
    },
)


def _authors(config: Config) -> list:
    kept = [
        ("auxiliary_head.features.1.", "auxiliary.norm1."),
        ("auxiliary_head.features.2.", "auxiliary.conv1."),
        ("auxiliary_head.features.3.", "auxiliary.act1."),
        ("auxiliary_head.features.4.", "auxiliary.norm2."),
        ("auxiliary_head.features.5.", "auxiliary.conv2."),
        ("auxiliary_head.features.6.", "auxiliary.act2."),
        ("auxiliary_head.classifier.", "auxiliary.linear."),
    ]
    return [
        *(kept if config.auxiliary else [("auxiliary_head.", None)]),
        (".activation_post_process.alpha", ".alpha", torch.flatten),
        ("stem0.0.", "stem.first.conv."),
        ("stem0.1.", "stem.first.norm."),
        ("stem0.3.", "stem.second.conv."),
        ("stem0.4.", "stem.second.norm."),
        ("stem1.1.", "stem.third.conv."),
        ("stem1.2.", "stem.third.norm."),
        ("stem.0.", "stem.first.conv."),
        ("stem.1.", "stem.first.norm."),
        ("cells.", "blocks."),
        (".preprocess{n}.", ".enter{n}."),
        ("._ops.", ".ops."),
        *[(f".op.{3 * j}.", f".layers.{j}.norm.") for j in (0, 1)],
        *[(f".op.{3 * j + 1}.", f".layers.{j}.conv.") for j in (0, 1)],
        *[(f".op.{3 * j + 2}.", f".layers.{j}.act.") for j in (0, 1)],
        (".activation.", ".act."),
        (".conv_1.0.", ".conv1."),
        (".conv_2.0.", ".conv2."),
        (".bn.", ".norm."),
        ("classifier.", "head."),
    ]


def _bits(config: Config) -> list:
    with torch.device("meta"):
        shapes = {n: tuple(m.weight.shape) for n, m in _packable(BATS(config))}
    return [
        (f"{n}.bits", f"{n}.weight", partial(unpack, shape=shape)) for n, shape in shapes.items()
    ]


NAMES: dict[str, Callable[[Config], list]] = {
    "1adrianb/binary-networks-pytorch": _authors,
    "vitrail's bits": _bits,
}


def fitted(config: Config, state: Mapping[str, Tensor]) -> Config:
    """Return the config with the classes and the auxiliary head that a state has."""
    head, auxiliary = state.get("head.weight"), "auxiliary.linear.weight" in state
    classes = len(head) if head is not None and head.ndim == 2 else config.classes
    return replace(config, classes=classes, auxiliary=auxiliary)


def packed(model: BATS) -> dict[str, Tensor]:
    """Return the model's state with every sign as one bit, under `NAME.bits`: 32 times less.

    `vitrail.load` reads it, as -1 and 1, with which the model computes the same. Raises ValueError
    unless the model's weights are plain signs.
    """
    if model.config.binary != "sign":
        raise ValueError(
            f'binary is {model.config.binary!r}; only the weights of a model of "sign" are '
            "nothing but signs"
        )
    state = model.state_dict()
    for name, conv in _packable(model):
        del state[f"{name}.weight"]
        state[f"{name}.bits"] = pack(conv.weight)
    return state


def _packable(model: nn.Module) -> list[tuple[str, BinaryConv2d]]:
    return [(n, m) for n, m in model.named_modules() if isinstance(m, BinaryConv2d)]


class SmallStem(nn.Module):
    """3x3 convolution, BatchNorm, ReLU: an image to one map of full size, given twice."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.act = config, nn.ReLU()
        self.first = ConvNorm(config.channels, 3 * config.dim, 3)
        self.widths, self.stride = (3 * config.dim, 3 * config.dim), 1

    def forward(self, image: Float[Tensor, "b channels h w"]) -> tuple[Tensor, Tensor]:
        check_image(image, self.config, "bats")
        x = image.contiguous(memory_format=torch.channels_last)
        x = channels_last(self.first.then(x, self.act))
        return x, x


class LargeStem(nn.Module):
    """Three 3x3 convolutions of stride 2, ReLUs between: an image to maps a fourth and an eighth
    as large, the first of them rectified."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, groups = config, max(1, config.dim // 20)
        if c.dim // 2 % groups or c.dim % groups:
            raise ValueError(
                f"dim is {c.dim}; the imagenet stem has dim // 20 groups, {groups}, which should "
                "divide half of dim"
            )
        self.config, self.act = config, nn.ReLU()
        self.first = ConvNorm(c.channels, c.dim // 2, 3, stride=2)
        self.second = ConvNorm(c.dim // 2, c.dim, 3, stride=2, groups=groups)
        self.third = ConvNorm(c.dim, c.dim, 3, stride=2, groups=groups)
        self.widths, self.stride = (c.dim, c.dim), 8

    def forward(self, image: Float[Tensor, "b channels h w"]) -> tuple[Tensor, Tensor]:
        check_image(image, self.config, "bats")
        x = image.contiguous(memory_format=torch.channels_last)
        x = self.second.then(self.first.then(x, self.act), self.act)
        return channels_last(x), channels_last(self.third(x))


STEMS = {"cifar": SmallStem, "imagenet": LargeStem}


class Auxiliary(nn.Module):
    """The head of training behind the second reduction: (B, h, w, C) to logits (B, classes)."""

    def __init__(self, dim: int, classes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm1, self.norm2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(128)
        self.conv1, self.conv2 = Conv2d(dim, 128, 1, bias=False), Conv2d(128, 768, 2, bias=False)
        self.act1, self.act2 = nn.PReLU(128), nn.PReLU(768)
        self.linear = linear_head(768, classes)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b k"]:
        x, least = channels_first(x), 5 + self.stride
        if min(x.shape[2:]) >= least:
            x = F.avg_pool2d(x, 5, self.stride)
        else:
            x = F.adaptive_avg_pool2d(x, (2, 2))
        x = self.act1(self.conv1(self.norm1(x)))
        x = self.act2(self.conv2(self.norm2(x)))
        return self.linear(x.mean((2, 3)))


class BATS(Backbone):
    """Stem, cells, mean, linear head; in training logits of the auxiliary head as well.

    Its maps are the last of each resolution. `operations` builds what genotypes name. Raises
    ValueError for genotypes, groups and widths that do not fit together.
    """

    def __init__(self, config: Config, *, operations: Mapping[str, Operation] = OPERATIONS) -> None:
        super().__init__()
        c = self.config = config
        _check(c, operations)
        self.stem = STEMS[c.stem](c)
        widths, stride = self.stem.widths, self.stem.stride
        dim, cells, levels = c.dim, [], []
        self.reductions = (c.cells // 3, 2 * c.cells // 3)
        for i in range(c.cells):
            genotype, concat = c.normal, c.normal_concat
            if i in self.reductions:
                genotype, concat = c.reduce, c.reduce_concat
                levels.append(Level(stride, widths[1]))
                dim, stride = 2 * dim, 2 * stride
            cell = Cell(
                genotype,
                concat,
                widths,
                dim,
                c.groups,
                reduces=i in self.reductions,
                # The first maps of the large stem differ in size as well.
                shrinks=i - 1 in self.reductions or (i == 0 and c.stem == "imagenet"),
                make=convolution(c.binary),
                operations=operations,
                drop_path=c.drop_path,
            )
            cells.append(cell)
            widths = (widths[1], dim * len(cell.concat))
        self.blocks = Blocks(cells)
        self.pool, self.head = Mean(), linear_head(widths[1], c.classes)
        self.levels, self.width = (*levels, Level(stride, widths[1])), widths[1]
        self.auxiliary: Auxiliary | None = None
        if c.auxiliary:
            width = 4 * c.dim * len(cells[self.reductions[1]].concat)
            self.auxiliary = Auxiliary(width, c.classes, 3 if c.stem == "cifar" else 2)

    def features(
        self, image: Float[Tensor, "b channels h w"], at: Sequence[int] | None = None
    ) -> list[Tensor]:
        first, second = self.reductions
        maps = self._maps(image, (first - 1, second - 1, len(self.blocks) - 1))
        return maps if at is None else [maps[i] for i in at]

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        return self.pool(self._maps(image, (len(self.blocks) - 1,))[0])

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Tensor | tuple[Tensor, Tensor]:
        if self.auxiliary is None or not self.training:
            return super().forward(image)
        last, reduced = len(self.blocks) - 1, self.reductions[1]
        maps = self._maps(image, (reduced, last))
        return self.head(self.pool(maps[-1])), self.auxiliary(maps[0])

    def binarised(self, weights: str = "sign") -> BATS:
        """Begin the second stage of a training: return a copy whose weights are binary as well.
        Raises ValueError unless this is the first stage, `binary` "inputs".
        """
        if self.config.binary != "inputs" or weights in ("none", "inputs"):
            raise ValueError(
                f"from {self.config.binary!r} to {weights!r} is not a second stage; "
                "it leads from 'inputs' to 'sign', 'xnor' or 'xnor_centred'"
            )
        made = copy.deepcopy(self)
        made.config = replace(self.config, binary=weights)
        for _, conv in _packable(made):
            conv.binariser = BINARISERS[weights]()
        return made

    def deployed(self) -> nn.Module:
        """Drop the auxiliary head."""
        self.auxiliary = None
        return self

    def depth_of(self, name: str) -> int:
        """Return how deep a parameter lies; the auxiliary head is as deep as the head."""
        return self.depth if name.startswith("auxiliary.") else super().depth_of(name)

    def _maps(self, image: Tensor, kept: tuple[int, ...]) -> list[Tensor]:
        """Return what the cells `kept`, in order, make: (B, h, w, C) each."""
        before, last = self.stem(image)
        found = {}
        for i, cell in enumerate(self.blocks):
            before, last = last, self.blocks.run(cell, before, last)
            if i in kept:
                found[i] = last
        return [found[i] for i in kept]


def _check(config: Config, operations: Mapping[str, Operation]) -> None:
    c = config
    if c.stem not in STEMS:
        raise ValueError(f"stem is {c.stem!r}; expected cifar or imagenet")
    if c.cells < 3:
        raise ValueError(f"cells are {c.cells}; a net with two reductions has at least 3")
    if c.dim < 1 or c.dim % SHUFFLED:
        raise ValueError(
            f"dim is {c.dim}; the channel shuffle has {SHUFFLED} groups: choose a multiple"
        )
    if c.groups < 1 or c.dim % c.groups:
        raise ValueError(f"groups are {c.groups}; they should divide the dim, {c.dim}")
    for genotype, concat in ((c.normal, c.normal_concat), (c.reduce, c.reduce_concat)):
        check(genotype, operations)
        last = 1 + len(genotype) // 2
        if not all(2 <= state <= last for state in concat) or len(set(concat)) < len(concat):
            raise ValueError(
                f"concat is {concat}; expected different states of the nodes, 2 to {last}"
            )


ATTENDS = False  # no part of it has weights that sum to one
MODEL = BATS
