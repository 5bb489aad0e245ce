"""LeViT: a transformer for fast inference, with a convolutional stem and shrinking attention.

Graham et al., ICCV 2021, arXiv 2104.01136. BatchNorm after every linear layer is the only
norm, so that a deployed model has none; keys are narrow, Hardswish stands before the output
projection, and a learned bias per distance of rows and columns takes the place of positions.

Bias tables have a row per position of the config's image: a model takes images of that size
only, any size by `create(..., image=...)`. The authors publish no way to move weights to
another size; `load(..., image=...)` stretches the tables linearly, so that distance 0 stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import ConvNorm, LinearNorm, NormLinear, channels_last, linear
from vitrail.layers.ffn import Mlp
from vitrail.layers.position import BiasTable, distance_index, zoom_grid
from vitrail.layers.residual import Block, DropPath
from vitrail.layers.tokens import Mean
from vitrail.models.names import levit as names
from vitrail.models.trunk.backbone import Level, Pyramid, Small, Stage, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table
from vitrail.models.trunk.sizes import PerBlock, each


@dataclass(frozen=True)
class Config:
    """Sizes of a LeViT: widths, heads and blocks per stage, width of a head's keys in all of them.

    An entry of `heads` is one number or one a block; `shrinking` are those of the attention that
    leads into each stage but the first, without entries as many as its input's width holds keys.
    An entry of `hidden`, without entries twice the width, is one number or one an MLP; the one
    that follows the shrinking attention comes first.

    `patch` is the stem's stride, a power of two: one convolution for each factor. A distilled
    model has a second head, for the teacher's labels: two logits in training, else their mean.
    """

    dims: tuple[int, ...] = (128, 256, 384)
    heads: tuple[PerBlock, ...] = (4, 8, 12)
    depths: tuple[int, ...] = (4, 4, 4)
    key_dim: int = 16
    patch: int = 16
    distilled: bool = True
    shrinking: tuple[int, ...] = ()
    hidden: tuple[PerBlock, ...] = ()
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000

    @property
    def convs(self) -> int:
        """Return the number of convolutions of the stem, each of stride 2."""
        return self.patch.bit_length() - 1


# name, widths, heads, blocks, width of keys; parameters, multiply-adds, accuracy
_ROWS = [
    ("128S", (128, 256, 384), (4, 6, 8), (2, 3, 4), 16, 7.777, 0.305, 76.6),
    ("128", (128, 256, 384), (4, 8, 12), (4, 4, 4), 16, 9.214, 0.406, 78.6),
    ("192", (192, 288, 384), (3, 5, 6), (4, 4, 4), 32, 10.947, 0.658, 80.0),
    ("256", (256, 384, 512), (4, 6, 8), (4, 4, 4), 32, 18.894, 1.120, 81.6),
    ("384", (384, 512, 768), (6, 9, 12), (4, 4, 4), 32, 39.129, 2.353, 82.6),
]
VARIANTS = {
    f"levit_{name.lower()}": Variant(
        Config(dims, heads, depths, key_dim, drop_path=0.1 if name == "384" else 0.0),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={
            "timm": f"hf-hub:timm/levit_{name.lower()}.fb_dist_in1k",
            "transformers": f"hf-hub:facebook/levit-{name}",
        },
    )
    for name, dims, heads, depths, key_dim, params_m, flops_g, top1 in _ROWS
}

SPACE = Small(
    Config(distilled=False),
    {
        ("dims", "heads", "depths"): (
            ((64, 96), (4, 6), (2, 2)),
            ((96, 144), (4, 6), (2, 3)),
            ((64, 128, 192), (3, 4, 6), (2, 2, 2)),
            ((128, 256, 384), (4, 6, 8), (2, 3, 4)),
        ),
        "patch": (4, 8, 16),
    },
)


NAMES = names.TABLES
WIDTHS = names.widths
# A shrinking attention's keys are on the map of the stage before.
POSITIONS = (
    Table(
        "stages.{i}.blocks.{j}.mixer.bias.table",
        lambda c, i, j: grids(c)[i],
        zoom_grid,
        axes=(0,),
    ),
    Table("stages.{i}.down.mixer.bias.table", lambda c, i: grids(c)[i - 1], zoom_grid, axes=(0,)),
)


def grids(config: Config) -> list[tuple[int, int]]:
    """Return the rows and columns of each stage's map."""
    h, w = config.image
    strides = [config.patch * 2**i for i in range(len(config.depths))]
    return [(math.ceil(h / s), math.ceil(w / s)) for s in strides]


class Stem(nn.Module):
    """3x3 convolutions of stride 2, Hardswish between: an image to (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        count = config.convs
        if config.patch != 2**count or count < 1 or config.dims[0] % 2 ** (count - 1):
            raise ValueError(
                f"patch is {config.patch}, the first width {config.dims[0]}: expected a power of "
                "two from 2, and a width that half of it divides"
            )
        self.config, self.grid = config, grids(config)[0]
        widths = [config.dims[0] // 2 ** (count - 1 - n) for n in range(count)]
        self.convs = nn.ModuleList(
            ConvNorm(before, width, 3, stride=2)
            for before, width in zip([config.channels, *widths], widths, strict=False)
        )

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "levit")
        h, w = image.shape[-2:]
        if (math.ceil(h / self.config.patch), math.ceil(w / self.config.patch)) != self.grid:
            raise ValueError(
                f"image is {h}x{w}; this levit has bias tables for "
                f"{'x'.join(map(str, self.config.image))}: create or load it with "
                f"image=({h}, {w}), or resize the image"
            )
        x = image.contiguous(memory_format=torch.channels_last)
        for n, conv in enumerate(self.convs):
            x = conv(x if n == 0 else F.hardswish(x))
        return channels_last(x)


class BiasedAttention(nn.Module):
    """What both attentions share: projected heads to a map (B, h, w, C).

    Heads are folded into the batch for three-axis matrix products: fused attention wants
    values as narrow as keys.
    """

    def __init__(self, heads: int, key_dim: int, bias: BiasTable, proj: nn.Module) -> None:
        super().__init__()
        self.heads, self.key_dim = heads, key_dim
        self.bias, self.proj = bias, proj

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        q, k, v, (h, w) = self._parts(x)
        out = self._attention(q, k).flatten(0, 1).bmm(v)
        out = out.view(-1, self.heads, h * w, v.shape[-1]).transpose(1, 2)
        return self.proj(F.hardswish(out.reshape(-1, h, w, self.heads * v.shape[-1])))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads t s"]:
        """Return the attention of every head, rows are queries."""
        q, k, _, _ = self._parts(x)
        return self._attention(q, k)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """Return queries, keys and values, each (B heads, n, width), and the map of the queries."""
        raise NotImplementedError

    def _attention(self, q: Tensor, k: Tensor) -> Tensor:
        logits = (q * self.key_dim**-0.5).bmm(k.mT)
        return logits.view(-1, self.heads, *logits.shape[1:]).add_(self.bias()).softmax(-1)

    def _by_head(self, x: Tensor) -> Tensor:
        """Turn (B, h, w, heads width) into (B heads, h w, width)."""
        b, h, w, c = x.shape
        x = x.view(b, h * w, self.heads, c // self.heads)
        return x.transpose(1, 2).flatten(0, 1)


class Attention(BiasedAttention):
    """Self-attention on a map of `grid`; packed [head][q | k | v], values twice as wide."""

    def __init__(self, dim: int, heads: int, key_dim: int, grid: tuple[int, int]) -> None:
        bias = BiasTable(math.prod(grid), heads, distance_index(grid))
        super().__init__(heads, key_dim, bias, LinearNorm(2 * key_dim * heads, dim, scale=0.0))
        self.qkv = LinearNorm(dim, 4 * key_dim * heads)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        d = self.key_dim
        q, k, v = self._by_head(self.qkv(x)).split([d, d, 2 * d], -1)
        return q, k, v, (x.shape[1], x.shape[2])


class ShrinkingAttention(BiasedAttention):
    """Queries at every second row and column of `grid`, values four times as wide as keys."""

    def __init__(
        self, dim_in: int, dim: int, *, heads: int, key_dim: int, grid: tuple[int, int]
    ) -> None:
        bias = BiasTable(math.prod(grid), heads, distance_index(grid, 2))
        super().__init__(heads, key_dim, bias, LinearNorm(4 * key_dim * heads, dim))
        self.kv = LinearNorm(dim_in, 5 * key_dim * heads)
        self.q = LinearNorm(dim_in, key_dim * heads)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        k, v = self._by_head(self.kv(x)).split([self.key_dim, 4 * self.key_dim], -1)
        x = x[:, ::2, ::2]
        return self._by_head(self.q(x)), k, v, (x.shape[1], x.shape[2])


class Shrink(nn.Module):
    """Shrinking attention, without residual, then an ffn with: (B, h, w, C) to half the map."""

    def __init__(self, mixer: nn.Module, ffn: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.mixer, self.ffn, self.drop_path = mixer, ffn, DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h2 w2 c2"]:
        x = self.mixer(x)
        return x + self.drop_path(self.ffn(x))


def feed_forward(dim: int, hidden: int) -> nn.Module:
    """Return an MLP with Hardswish and a BatchNorm after each linear layer."""
    mlp = Mlp(dim, hidden, act=nn.Hardswish())
    mlp.fc1, mlp.fc2 = LinearNorm(dim, hidden), LinearNorm(hidden, dim, scale=0.0)  # pyright: ignore[reportAttributeAccessIssue]
    return mlp


class DistilledHead(nn.Module):
    """A head for labels and one for a teacher's: two logits in training, else their mean."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.main, self.distilled = NormLinear(dim, classes), NormLinear(dim, classes)

    def outputs(self, x: Float[Tensor, "b c"]) -> dict[str, Tensor]:
        """Return the logits of each head, under the authors' names."""
        return {"head": self.main(x), "head_dist": self.distilled(x)}

    def forward(self, x: Float[Tensor, "b c"]) -> Tensor | tuple[Tensor, Tensor]:
        main, distilled = self.main(x), self.distilled(x)
        return (main, distilled) if self.training else (main + distilled) / 2

    def deployed(self) -> nn.Module:
        """Return one linear layer with the mean of both, once they are folded."""
        weight, bias = (
            (getattr(self.main, n) + getattr(self.distilled, n)) / 2 for n in ("weight", "bias")
        )
        return linear(weight, bias)


class LeViT(Pyramid):
    """Convolutional stem, stages of attention with shrinking ones between, mean, head."""

    undecayed = ("bias.table",)

    def __init__(self, config: Config) -> None:
        sizes, d = grids(config), config.key_dim
        if not len(config.dims) == len(config.heads) == len(config.depths):
            raise ValueError(
                f"dims {config.dims}, heads {config.heads} and depths {config.depths} differ in "
                "length: one each a stage"
            )
        if math.prod(sizes[-1]) < 2:
            raise ValueError(
                f"image is {config.image[0]}x{config.image[1]}; the last of {len(sizes)} levit "
                f"stages would have one position only: take a smaller patch than {config.patch}, "
                "fewer stages or a larger image"
            )
        shrinking = config.shrinking or tuple(dim // d for dim in config.dims[:-1])
        hidden = config.hidden or tuple(2 * dim for dim in config.dims)
        if len(shrinking) != len(config.dims) - 1 or len(hidden) != len(config.dims):
            raise ValueError(
                f"shrinking is {config.shrinking}, hidden {config.hidden}: expected no entries, or "
                f"{len(config.dims) - 1} and {len(config.dims)}"
            )
        stages = []
        for i, (dim, grid) in enumerate(zip(config.dims, sizes, strict=True)):
            heads = each(config.heads[i], config.depths[i], "heads")
            own = iter(each(hidden[i], config.depths[i] + bool(i), "hidden"))
            down: nn.Module = nn.Identity()
            if i:
                attention = ShrinkingAttention(
                    config.dims[i - 1], dim, heads=shrinking[i - 1], key_dim=d, grid=sizes[i - 1]
                )
                down = Shrink(attention, feed_forward(dim, next(own)), config.drop_path)
            block = partial(Block, dim, norm=nn.Identity, drop_path=config.drop_path)
            mixers = [Attention(dim, n, d, grid) for n in heads]
            stages.append(Stage(down, [block(m, feed_forward(dim, next(own))) for m in mixers]))
        head = DistilledHead if config.distilled else NormLinear
        super().__init__(
            config,
            stem=Stem(config),
            stages=stages,
            norm=nn.Identity(),
            pool=Mean(),
            head=linear_head(config.dims[-1], config.classes, head),
            levels=[Level(config.patch * 2**i, dim) for i, dim in enumerate(config.dims)],
        )


MODEL = LeViT
