"""HaloNet: local attention by blocks, whose queries share one window of keys around them.

Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones", CVPR 2021,
arXiv 2103.12731. The queries of a block of b x b pixels see the (b + 2h)^2 keys of the block and
its halo of h; a block of the whole map is global attention. Where a ResNet's convolution has a
stride, every second pixel asks, and the tables of offsets step by one *query*. H0 to H7 consist
of such blocks alone; their values may be wider than queries and keys.

As in timm's implementation, whose author calls some of it guesses: keys beyond the border are
zeros that take part in the softmax; q'k is scaled and q'r is not (`scaled` is False); keys and
values are packed [head][k | v]; a stride that does not divide the block is a mean of cells behind
attention at full size. The paper's stages have 4, 8, 8 and 8 heads, timm's halonet_h1 has 8. In
timm's sehalonet33ts blocks without attention excite before their last convolution, the last stage
widens less, and the stem has a third stride in place of a max pool.

Any image may be given: a map is padded to whole blocks by zeros at the bottom and right, like its
border; the queries there are left out. The tables do not depend on the image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import attention_weights
from vitrail.layers.conv import channels_first, channels_last
from vitrail.layers.linear import Linear, frozen, linear
from vitrail.layers.neighborhood import halos
from vitrail.layers.relative import TABLES, RelativePosition, attend_by_parts, relative_logits
from vitrail.layers.windows import pad, partition, reverse
from vitrail.models import resnet
from vitrail.models.parts.attention_resnet import (
    ACTS,
    BYOB,
    check_act,
    check_attending,
    finish,
    stem,
)
from vitrail.models.resnet import ResNet, convolution
from vitrail.models.trunk.backbone import Small, Variant


@dataclass(frozen=True)
class Config(resnet.Config):
    """Sizes of a HaloNet: a ResNet's, per stage which of its blocks attend (all if it is empty)
    and with how many heads, the sides of a block and of its halo. `value_ratio` is the width of
    values over that of queries, `final` the width of a 1x1 convolution before the head, 0 for
    none. `excite` divides the inner width of blocks without attention for an excitation before
    their last convolution, 0 for none; `stem_strides` are those of the stem's convolutions where
    no max pool follows them. `expansion` may be one number a stage."""

    depths: tuple[int, ...] = (3, 3, 10, 3)
    expansion: int | float | tuple[int | float, ...] = 1.0  # pyright: ignore[reportIncompatibleVariableOverride]
    attending: tuple[tuple[int, ...], ...] = ()
    heads: tuple[int, ...] = (4, 8, 8, 8)
    block: int = 8
    halo: int = 3
    value_ratio: float = 1.0
    scaled: bool = False
    final: int = 0
    excite: int = 0
    stem_strides: tuple[int, ...] = ()
    act: str = "relu"
    image: tuple[int, int] = (256, 256)


# block, halo, value_ratio, expansion, blocks of stage 3, image, final; parameters, accuracy
_ROWS = [
    (8, 3, 1.0, 0.5, 7, 256, 0, 5.5, 77.9),
    (8, 3, 1.0, 1.0, 10, 256, 0, 8.1, 79.9),
    (8, 3, 1.0, 1.25, 11, 256, 0, 9.4, 80.4),
    (10, 3, 1.0, 1.5, 12, 320, 1024, 11.8, 81.9),
    (12, 2, 1.0, 3.0, 12, 384, 1280, 19.1, 83.3),
    (14, 2, 2.5, 2.0, 23, 448, 1536, 30.7, 84.0),
    (8, 4, 3.0, 2.75, 24, 512, 1536, 43.4, 84.4),
    (10, 3, 4.0, 3.5, 26, 600, 2048, 67.4, 84.9),
]
VARIANTS = {
    f"halonet_h{n}": Variant(
        Config(
            depths=(3, 3, depth, 3),
            expansion=expansion,
            block=block,
            halo=halo,
            value_ratio=value_ratio,
            final=final,
            image=(side, side),
        ),
        params_m=params_m,
        top1=top1,
    )
    for n, (
        block, halo, value_ratio, expansion, depth, side, final, params_m, top1,
    ) in enumerate(_ROWS)
}  # fmt: skip

_26T = Config(
    depths=(2, 2, 2, 2),
    expansion=4,
    attending=((), (), (1,), (0, 1)),
    heads=(8, 8, 8, 8),
    halo=2,
    stem_kernel=3,
    stem_dims=(24, 32, 64),
)
_50TS = replace(
    _26T,
    depths=(3, 4, 6, 3),
    attending=((), (3,), (1, 3, 5), (1,)),
    heads=(4, 4, 8, 8),
    halo=3,
    act="silu",
)
_SE33TS = replace(
    _50TS,
    depths=(2, 3, 3, 2),
    expansion=(4, 4, 4, 3),
    attending=((), (2,), (2,), (0, 1)),
    heads=(8, 8, 8, 8),
    excite=16,
    final=1280,
    stem_strides=(2, 1, 2),
)
VARIANTS |= {
    "sehalonet_33ts": Variant(
        _SE33TS, params_m=13.69, hub={"timm": "hf-hub:timm/sehalonet33ts.ra2_in1k"}
    ),
    "halonet_26t": Variant(_26T, params_m=12.48, hub={"timm": "hf-hub:timm/halonet26t.a1h_in1k"}),
    "halonet_50ts": Variant(
        _50TS, params_m=22.73, hub={"timm": "hf-hub:timm/halonet50ts.a1h_in1k"}
    ),
}

SPACE = Small(
    Config(stem_kernel=3, expansion=1, block=4, halo=1),
    {
        ("dims", "depths", "heads"): (
            ((16, 32, 64), (1, 1, 1), (2, 4, 4)),
            ((32, 64, 128), (1, 1, 1), (2, 4, 4)),
            ((32, 64, 128), (2, 2, 2), (2, 4, 4)),
            ((32, 64, 96, 128), (1, 1, 2, 1), (2, 4, 4, 4)),
        ),
        ("block", "halo"): ((4, 1), (4, 2), (8, 2)),
        "stem_stride": (1, 2, 4),
    },
)

NAMES = {"timm": BYOB}


class HaloAttention(nn.Module):
    """Attention of blocks to themselves and a halo, on (B, C, H, W) views, to (B, width, H', W').

    H' and W' are divided by the stride and round up. `width` and `inner`, that of the queries,
    are C unless given."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        block: int,
        halo: int,
        stride: int = 1,
        width: int | None = None,
        inner: int | None = None,
        scaled: bool = False,
    ) -> None:
        super().__init__()
        self.width, inner = width or dim, inner or dim
        if block < 1 or halo < 0:
            raise ValueError(f"block is {block}, halo {halo}: expected 1 or more, and 0 or more")
        for name, channels in (("queries", inner), ("values", self.width)):
            if channels % heads:
                raise ValueError(
                    f"{channels} channels of {name} do not divide into {heads} heads: choose a "
                    "divisor"
                )
        self.heads, self.block, self.halo, self.scaled = heads, block, halo, scaled
        self.step = stride if block % stride == 0 else 1
        self.d = inner // heads
        self.q = Linear(dim, inner, bias=False)
        self.kv = Linear(dim, inner + self.width, bias=False)
        side = block + 2 * halo
        self.position = RelativePosition((side, side), self.d)
        self.shift: nn.Parameter | None = None
        whole = self.step == stride
        self.pool = nn.Identity() if whole else nn.AvgPool2d(stride, ceil_mode=True)
        for layer in (self.q, self.kv):
            nn.init.trunc_normal_(layer.weight, std=dim**-0.5)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        (h, w), x = x.shape[2:], pad(channels_last(x), self.block)
        out = attend_by_parts(*self._heads(x), self._bias).transpose(1, 2).flatten(2)
        grid = (x.shape[1] // self.step, x.shape[2] // self.step)
        out = reverse(out, self.block // self.step, grid)
        out = out[:, : -(-h // self.step), : -(-w // self.step)]
        return self.pool(channels_first(out if self.shift is None else out + self.shift))

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "bn heads t s"]:
        """Return the attention of every head in every block, rows are queries."""
        q, k, _ = self._heads(pad(channels_last(x), self.block))
        return attention_weights(q, k, bias=self._bias(q))

    def absorb_norm(self, scale: Float[Tensor, "c"], shift: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels and add to them, for good. Values take the scale; not
        the shift, since those beyond the border are zeros."""
        weight = self.kv.weight.unflatten(0, (self.heads, -1))
        k, v = weight[:, : self.d], weight[:, self.d :]
        v = v * scale.view(self.heads, -1, 1)
        self.kv, self.shift = linear(torch.cat([k, v], 1).flatten(0, 1), None), frozen(shift)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries (B n, heads, t, d), keys and values (B n, heads, s, d) of n blocks."""
        q = self.q(x[:, :: self.step, :: self.step] if self.step > 1 else x)
        q = partition(q, self.block // self.step).unflatten(2, (self.heads, -1))
        kv = halos(self.kv(x), self.block, self.halo).flatten(0, 2)
        kv = kv.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return q.transpose(1, 2), kv[..., : self.d], kv[..., self.d :]

    def _bias(self, q: Tensor) -> Tensor:
        side = self.block // self.step
        q = (q * self.d**-0.5 if self.scaled else q).unflatten(2, (side, side))
        return relative_logits(q, self.position.rows, self.position.columns)


class HaloNet(ResNet):
    """A ResNet of bottlenecks, all or some of which attend to blocks with halos."""

    undecayed = TABLES

    def __init__(self, config: Config) -> None:
        c = config
        attending = c.attending or tuple(tuple(range(depth)) for depth in c.depths)
        check_attending(attending, c.depths)
        check_act(c.act)
        if len(c.heads) != len(c.depths):
            raise ValueError(f"heads {c.heads} and depths {c.depths} differ: one each a stage")

        def mixer(i: int, j: int, dim: int, stride: int) -> nn.Module:
            if j not in attending[i]:
                return convolution(i, j, dim, stride)
            return HaloAttention(
                dim,
                c.heads[i],
                block=c.block,
                halo=c.halo,
                stride=stride,
                width=int(c.value_ratio * dim),
                scaled=c.scaled,
            )

        super().__init__(c, mixer, act=ACTS[c.act], stem=stem(c), bottleneck=True)
        finish(self, c)


MODEL = HaloNet
