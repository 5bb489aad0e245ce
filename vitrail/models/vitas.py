"""ViTAS: vision transformers whose width, depth, heads and patches were searched.

Su et al., "ViTAS: Vision Transformer Architecture Search", ECCV 2022, arXiv 2106.13700: the
networks of the public code, which is the paper's first version. The second version's, based
on DeiT and Twins, were not published block by block. `decoded` reads the authors' code words;
the super-transformer that was searched is `vitrail.search.supernets.vitas`.

Some of the slots for blocks hold an identity: they count for stochastic depth and are left
out of the network. Attention is as wide as was searched, its scale that of the tokens, (dim //
heads)**-0.5, whatever a head's width, so that heads need not divide `dim`. The last norm's
eps is 1e-5, the blocks' 1e-6. The authors' code refuses other images than 224x224; here
positions move to them as DeiT's do (bicubic).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.patches import ClassPatches
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models.names import vitas as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table, patches

PATCHES = (14, 16, 32)  # what a stem and a block choose from; 0 heads are an identity
HEADS = (3, 6, 12, 16, 0)


@dataclass(frozen=True)
class Config:
    """Sizes of a ViTAS, per slot: `heads` (0 leaves the slot empty), `attention` rows of the
    fused q, k and v, so that each has a third, and `hidden` of the MLP."""

    dim: int = 230
    heads: tuple[int, ...] = (3,) * 12
    attention: tuple[int, ...] = (432,) * 12
    hidden: tuple[int, ...] = (720,) * 12
    patch: int = 16
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000

    @property
    def filled(self) -> list[int]:
        """Return the slots that hold a block."""
        return [slot for slot, heads in enumerate(self.heads) if heads]


def decoded(
    choices: Sequence[int], ratios: Sequence[int], widest: tuple[int, int, int]
) -> dict[str, Any]:
    """Decode the fields of a Config from a code word of the authors.

    `choices` are those of stem, every slot, norm and head; `ratios` are tenths, less one, of
    `widest` (dim, attention, hidden): for dim, then for attention and hidden of every slot.
    """
    heads = tuple(HEADS[i] for i in choices[1:-2])
    dim, attention, hidden = (
        [round((i + 1) * most / 10) for i in part]
        for part, most in zip((ratios[:1], ratios[1::2], ratios[2::2]), widest, strict=True)
    )
    return {
        "dim": dim[0],
        "heads": heads,
        "attention": tuple(a if h else 0 for a, h in zip(attention, heads, strict=True)),
        "hidden": tuple(m if h else 0 for m, h in zip(hidden, heads, strict=True)),
        "patch": PATCHES[choices[0]],
    }


def _config(choices: str, ratios: str, times: int = 1) -> Config:
    """Make a Config from a code word of one digit a number; its widest sizes are `times` those of
    the super-net.
    """
    first, second = ([int(digit) for digit in word.replace(" ", "")] for word in (choices, ratios))
    return replace(Config(), **decoded(first, second, (384 * times, 1440 * times, 1440 * times)))


_HEAD = "the published operations count the head once for every patch"
VARIANTS = {
    "vitas_858m": Variant(
        _config(
            "1 2434413434444334 00",
            "3 16 79 43 68 49 18 64 92 76 89 30 38 70 57 98 44",
        ),
        params_m=3.679,
        flops_g=0.858,
        top1=71.1,
        note=_HEAD,
    ),
    "vitas_1g": Variant(
        _config(
            "1 3443434422423441 00",
            "4 15 16 22 23 29 26 39 57 75 64 81 53 28 59 24 55",
        ),
        params_m=4.400,
        flops_g=0.991,
        top1=72.4,
        note=_HEAD,
    ),
    "vitas_1_3g": Variant(Config(), params_m=6.048, flops_g=1.303, top1=74.7, note=_HEAD),
    "vitas_2_7g": Variant(
        _config(
            "1 3434314042124212 00",
            "8 44 17 65 38 56 56 36 34 44 88 87 40 45 95 36 78",
        ),
        params_m=12.551,
        flops_g=2.707,
        top1=77.4,
    ),
    "vitas_4_9g": Variant(
        _config("1 3333333333333 00", "3 25 07 52 36 62 44 87 46 72 61 66 57 47", times=2),
        params_m=22.540,
        flops_g=4.931,
        top1=80.6,
    ),
}


def _small(depth: int, attention: int, hidden: int) -> tuple[tuple[int, ...], ...]:
    return (3,) * depth, (attention,) * depth, (hidden,) * depth


SPACE = Small(
    Config(drop_path=0.0),
    {
        ("dim", "heads", "attention", "hidden"): (
            (64, *_small(4, 144, 144)),
            (96, *_small(4, 216, 288)),
            (128, *_small(6, 288, 288)),
            (192, *_small(6, 432, 576)),
        ),
        "patch": (4, 7, 8, 16),
    },
)


NAMES = names.TABLES
POSITIONS = (Table("embed.position", patches, bicubic_grid),)


class Embed(ClassPatches):
    """Image (B, channels, H, W) to the class token and patches (B, 1 + h w, C)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config.channels, config.dim, config.patch, image=config.image)
        self.config = config

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "vitas")
        return image


class ViTAS(Isotropic):
    """Patches and class token, the blocks of the filled slots, class token, linear head."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        c, slots = config, config.filled
        if not slots or len({len(c.heads), len(c.attention), len(c.hidden)}) > 1:
            raise ValueError(
                f"heads {c.heads}, attention {c.attention}, hidden {c.hidden}: expected one "
                "entry a slot each, and a slot with heads"
            )
        for slot in slots:
            if c.attention[slot] % (3 * c.heads[slot]) or c.heads[slot] > c.dim:
                raise ValueError(
                    f"attention is {c.attention[slot]} for {c.heads[slot]} heads of dim {c.dim}: "
                    f"expected a multiple of {3 * c.heads[slot]}, and no more heads than dim"
                )
        rates = rising(c.drop_path, len(c.heads))
        blocks = [
            Block(
                c.dim,
                Attention(
                    c.dim, c.heads[i], inner=c.attention[i] // 3, scale=scale(c.dim, c.heads[i])
                ),
                Mlp(c.dim, c.hidden[i]),
                norm=partial(nn.LayerNorm, eps=1e-6),
                drop_path=rates[i],
            )
            for i in slots
        ]
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=nn.LayerNorm(c.dim),
            pool=FirstToken(),
            head=linear_head(c.dim, c.classes),
            levels=[Level(c.patch, c.dim)],
        )
        init(self)


def scale(dim: int, heads: int) -> float:
    """Return what attention logits are multiplied by: from the tokens' width, not a head's."""
    return (dim // heads) ** -0.5


def init(module: nn.Module) -> None:
    """Initialise linear weights truncated normal, biases nearly zero."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            nn.init.trunc_normal_(m.bias, std=1e-6)


MODEL = ViTAS
