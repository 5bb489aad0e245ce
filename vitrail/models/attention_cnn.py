"""Self-attention as convolution: networks of attention layers that can be convolutions.

Cordonnier, Loukas, Jaggi, "On the Relationship between Self-Attention and Convolutional
Layers", ICLR 2020, arXiv 1911.03584. Heads that each look at one shift make a convolution:
`convolution_as_attention` is the paper's construction. The networks are post-norm transformers
on pixels whose heads look where a relative position tells them: by a Gaussian with a learned
centre ("quadratic"; "general" with a full 2x2 precision), by learned embeddings of row and
column offsets ("learned"), or by these and content ("content").

Each head sees all channels: value and output projection are one map of what all heads see, and
another linear layer follows, which deploying folds into it. Where content plays no part, maps
do not depend on the image, and all but "general" ones take two short passes, along rows and
columns (see layers/offsets.py). LayerNorm's eps is 1e-12. The learned embeddings
are for square maps in the authors' code and here for any up to the config's; to a smaller image
they move by leaving out the outer offsets. The published operations are halved, since they
count a multiply-add twice, and leave out what attention itself multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attend, attention_weights
from vitrail.layers.conv import Conv
from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear, linear
from vitrail.layers.offsets import General, Learned, Offsets, Quadratic, convolution_as_attention
from vitrail.layers.position import cropped_line
from vitrail.layers.residual import DropPath, rising
from vitrail.layers.tokens import Mean
from vitrail.models.names import attention_cnn as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import by_axis, offsets, patches

__all__ = ["MODEL", "NAMES", "SPACE", "VARIANTS", "Config", "convolution_as_attention"]

ENCODINGS = ("quadratic", "general", "learned", "content")


@dataclass(frozen=True)
class Config:
    """Sizes of a fully attentional network; `encoding` is one of `ENCODINGS`, `patch` the side
    of the cells whose pixels become one token, `dropout` acts on maps and branches. Embeddings
    of offsets are `offset_dim` wide, 0 for as wide as tokens."""

    dim: int = 400
    depth: int = 6
    heads: int = 9
    hidden: int = 512
    encoding: str = "quadratic"
    offset_dim: int = 0
    patch: int = 2
    dropout: float = 0.1
    drop_path: float = 0.0
    image: tuple[int, int] = (32, 32)
    channels: int = 3
    classes: int = 10


_NOTE = "{} % on CIFAR-10; the published operations leave out those of the attention itself"
VARIANTS = {
    f"attention_cnn_{encoding}": Variant(
        Config(encoding=encoding),
        params_m=params_m,
        flops_g=flops_g,
        note=_NOTE.format(accuracy),
    )
    for encoding, params_m, flops_g, accuracy in [
        ("quadratic", 12.1, 3.1, 93.8),
        ("learned", 12.3, 3.1, 91.8),
        ("content", 29.5, 7.5, 87.1),
    ]
}

SPACE = Small(
    Config(dropout=0.0),
    {
        ("dim", "hidden"): ((48, 96), (64, 128), (96, 192)),
        "heads": (4, 9),
        "depth": (3, 4),
        "patch": (2, 4, 8),
        "encoding": ("learned", "quadratic"),
    },
)


NAMES = names.TABLES
# Learned offsets are cut, and cannot grow.
POSITIONS = by_axis(".position", lambda c: offsets(patches(c)), cropped_line)


def grid(config: Config, h: int, w: int) -> tuple[int, int]:
    """Return the tokens down and across an image of h x w pixels; ValueError unless cells fit."""
    if h % config.patch or w % config.patch:
        raise ValueError(
            f"image is {h}x{w}; attention_cnn needs multiples of its patch {config.patch}: "
            "choose another patch or resize"
        )
    return h // config.patch, w // config.patch


class PositionAttention(nn.Module):
    """Heads that look where `position` says, a map of what all of them see, then a linear layer:
    (B, h, w, C) to the same."""

    def __init__(self, dim: int, heads: int, position: Offsets, dropout: float) -> None:
        super().__init__()
        self.heads, self.position, self.dropout = heads, position, dropout
        self.value = Linear(heads * dim, dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        return self._mapped(self.position(x, self._rate()).flatten(3))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom, the same for every image; rows are queries."""
        return self.position.table(*x.shape[1:3]).expand(x.shape[0], -1, -1, -1)

    def deployed(self) -> PositionAttention:
        """Fold the second linear layer into the first."""
        first, second = self.value, self.proj
        bias = second.weight @ first.bias + second.bias
        self.value, self.proj = linear(second.weight @ first.weight, bias), nn.Identity()
        return self

    def _rate(self) -> float:
        return self.dropout if self.training else 0.0

    def _mapped(self, seen: Float[Tensor, "b h w nc"]) -> Float[Tensor, "b h w c"]:
        return F.dropout(self.proj(self.value(seen)), self.dropout, self.training)


class ContentAttention(PositionAttention):
    """Heads that look by position and content: (B, h, w, C) to the same."""

    def __init__(self, dim: int, heads: int, position: Offsets, dropout: float) -> None:
        super().__init__(dim, heads, position, dropout)
        self.query, self.key = Linear(dim, heads * dim), Linear(dim, heads * dim)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        q, k = self._split(self.query, x), self._split(self.key, x)
        v = x.flatten(1, 2)[:, None].expand(-1, self.heads, -1, -1)
        bias = self.position.bias(*x.shape[1:3])
        seen = attend(q, k, v, bias=bias, dropout=self._rate())
        return self._mapped(seen.transpose(1, 2).reshape(*x.shape[:3], -1))

    def weights(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom, rows are queries."""
        q, k = self._split(self.query, x), self._split(self.key, x)
        return attention_weights(q, k, bias=self.position.bias(*x.shape[1:3]))

    def _split(self, part: Linear, x: Tensor) -> Tensor:
        return part(x.flatten(1, 2)).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Embed(nn.Module):
    """The pixels of a cell, as one token: an image to (B, h, w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        grid(config, *config.image)
        self.proj = Conv(config.channels, config.dim, config.patch, config.patch)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return tokens down and across; ValueError unless cells, and learned offsets, suffice."""
        found, made = grid(self.config, h, w), grid(self.config, *self.config.image)
        learned = self.config.encoding in ("learned", "content")
        if learned and (found[0] > made[0] or found[1] > made[1]):
            raise ValueError(
                f"image is {h}x{w}; this attention_cnn has offsets for "
                f"{'x'.join(map(str, self.config.image))}: create it with image=({h}, {w})"
            )
        return found

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b h2 w2 c"]:
        check_image(image, self.config, "attention_cnn")
        self.grid(*image.shape[-2:])
        return self.proj(image.permute(0, 2, 3, 1))


class PostNormBlock(nn.Module):
    """norm1(x + mixer(x)), then norm2(x + ffn(x)): (B, h, w, C) to the same."""

    def __init__(self, config: Config, mixer: nn.Module, drop_path: float) -> None:
        super().__init__()
        c = config
        self.mixer, self.norm1 = mixer, nn.LayerNorm(c.dim, eps=1e-12)
        self.ffn, self.norm2 = Mlp(c.dim, c.hidden), nn.LayerNorm(c.dim, eps=1e-12)
        self.dropout, self.drop_path = nn.Dropout(c.dropout), DropPath(drop_path)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        x = self.norm1(x + self.drop_path(self.mixer(x)))
        return self.norm2(x + self.drop_path(self.dropout(self.ffn(x))))


class AttentionCNN(Isotropic):
    """Cells of pixels, post-norm blocks on the map, mean, linear head."""

    undecayed = ("position.centers", "position.spreads")

    def __init__(self, config: Config) -> None:
        c = config
        if c.encoding not in ENCODINGS:
            raise ValueError(f"encoding is {c.encoding!r}: expected {', '.join(ENCODINGS)}")
        kind = ContentAttention if c.encoding == "content" else PositionAttention
        blocks = [
            PostNormBlock(c, kind(c.dim, c.heads, _position(c), c.dropout), rate)
            for rate in rising(c.drop_path, c.depth)
        ]
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=nn.Identity(),
            pool=Mean(),
            head=linear_head(c.dim, c.classes),
            levels=[Level(c.patch, c.dim)],
        )


def _position(config: Config) -> Offsets:
    c = config
    if c.encoding in ("learned", "content"):
        if c.offset_dim < 0:
            raise ValueError(f"offset_dim is {c.offset_dim}: expected a width, or 0 for dim's")
        return Learned(c.offset_dim or c.dim, c.heads, grid(c, *c.image))
    centers = 2 * torch.randn(c.heads, 2)
    if c.encoding == "quadratic":
        return Quadratic(centers, 1 + 0.01 * torch.randn(c.heads))
    return General(centers, torch.eye(2) + 0.01 * torch.randn(c.heads, 2, 2))


MODEL = AttentionCNN
