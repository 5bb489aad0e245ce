"""DeiT: a ViT trained on ImageNet-1k alone, and taught by a ConvNet through a token of its own.

Touvron et al., "Training data-efficient image transformers & distillation through attention",
ICML 2021, arXiv 2012.12877. The network is ViT's with the exact GELU; what is new is the
distillation token behind the class token, with a head that learns the teacher's labels.

In training a distilled model gives both heads' logits, in eval mode the mean of them, as the
authors' code does (the paper adds the softmax outputs). Tokens have no rows in the position
table: those of a checkpoint are folded into them. LayerNorm's eps is 1e-6, where transformers'
default is 1e-12. Positions move to other image sizes bicubically, which keeps their norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import Linear, linear
from vitrail.layers.patches import ClassPatches
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models.names import deit as names
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table, patches
from vitrail.models.trunk.sizes import PerBlock, widths


@dataclass(frozen=True)
class Config:
    """Sizes of a DeiT; `distilled` ones have a second token and head. `heads`, `inner` (channels
    of all heads, 0 for `dim`) and `hidden` are one number or one a block."""

    dim: int = 192
    depth: int = 12
    heads: PerBlock = 3
    hidden: PerBlock = 768
    patch: int = 16
    distilled: bool = False
    inner: PerBlock = 0
    drop_path: float = 0.1
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_SIZES = {
    "tiny": Config(),
    "small": Config(dim=384, heads=6, hidden=1536),
    "base": Config(dim=768, heads=12, hidden=3072),
}
# size, distilled, image, parameters and multiply-adds (of the authors' networks, counted),
# accuracy after 300 epochs (the largest: 1000)
_ROWS = [
    ("tiny", False, 224, 5.717, 1.25, 72.2),
    ("small", False, 224, 22.051, 4.60, 79.9),
    ("base", False, 224, 86.568, 17.56, 81.8),
    ("base", False, 384, 86.859, 55.48, 82.9),
    ("tiny", True, 224, 5.911, 1.26, 74.5),
    ("small", True, 224, 22.436, 4.62, 81.2),
    ("base", True, 224, 87.338, 17.66, 83.4),
    ("base", True, 384, 87.630, 55.59, 85.2),
]


def _variant(
    size: str, distilled: bool, side: int, params_m: float, flops_g: float, top1: float
) -> Variant:
    word = "_distilled" if distilled else ""
    reference = f"deit_{size}{word}_patch16_{side}"
    return Variant(
        replace(_SIZES[size], distilled=distilled, image=(side, side)),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={
            "timm": f"hf-hub:timm/{reference}.fb_in1k",
            "transformers": f"hf-hub:facebook/{reference.replace('_', '-')}",
        },
    )


VARIANTS = {
    f"deit_{row[0]}" + ("_distilled" if row[1] else "") + ("_384" if row[2] == 384 else ""): (
        _variant(*row)
    )
    for row in _ROWS
}

SPACE = Small(
    Config(drop_path=0.0),
    {
        ("dim", "heads", "hidden"): ((64, 2, 128), (96, 3, 192), (128, 4, 256), (192, 4, 384)),
        "depth": (3, 6),
        "patch": (4, 7, 8, 16),
    },
)


NAMES = names.TABLES
WIDTHS = names.widths
POSITIONS = (Table("embed.position", patches, bicubic_grid),)


class Embed(ClassPatches):
    """Image (B, channels, H, W) to the prefix tokens and patches (B, prefix + h w, C)."""

    def __init__(self, config: Config) -> None:
        c, tokens = config, 2 if config.distilled else 1
        super().__init__(c.channels, c.dim, c.patch, image=c.image, tokens=tokens, std=0.02)
        self.config = config

    def seen(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b channels h w"]:
        check_image(image, self.config, "deit")
        return image


class FirstTokens(nn.Module):
    """The class and the distillation token side by side: (B, N, C) to (B, 2 C)."""

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c2"]:
        return x[:, :2].flatten(1)


class TwoHeads(nn.Module):
    """Each token's own head: (B, 2 C) to two logits (B, classes) in training, else their mean."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.main, self.distilled = Linear(dim, classes), Linear(dim, classes)

    def outputs(self, x: Float[Tensor, "b c2"]) -> dict[str, Tensor]:
        """Return the logits of each head, under the authors' names."""
        first, second = x.chunk(2, 1)
        return {"head": self.main(first), "head_dist": self.distilled(second)}

    def forward(self, x: Float[Tensor, "b c2"]) -> Tensor | tuple[Tensor, Tensor]:
        main, distilled = self.outputs(x).values()
        return (main, distilled) if self.training else (main + distilled) / 2

    def deployed(self) -> Linear:
        """Return one linear layer of both tokens that gives the mean."""
        weight = torch.cat([self.main.weight, self.distilled.weight], 1) / 2
        return linear(weight, (self.main.bias + self.distilled.bias) / 2)


class DeiT(Isotropic):
    """Patches behind one or two tokens, pre-norm transformer blocks, a head for each token."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        c, norm = config, partial(nn.LayerNorm, eps=1e-6)
        sizes = widths(c.heads, c.inner, c.hidden, c.depth, (c.dim, 4 * c.dim))
        blocks = [
            Block(
                c.dim,
                Attention(c.dim, size.heads, inner=size.inner),
                Mlp(c.dim, size.hidden),
                norm=norm,
                drop_path=rate,
            )
            for rate, size in zip(rising(c.drop_path, c.depth), sizes, strict=True)
        ]
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=norm(c.dim),
            pool=FirstTokens() if c.distilled else FirstToken(),
            head=linear_head(c.dim, c.classes, TwoHeads if c.distilled else Linear),
            levels=[Level(c.patch, c.dim)],
        )
        self.width = 2 * c.dim if c.distilled else c.dim
        trunc_normal_linear(self)


MODEL = DeiT
