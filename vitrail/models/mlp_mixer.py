"""MLP-Mixer: an MLP across tokens takes the place of attention.

Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", NeurIPS 2021, arXiv
2105.01601. Blocks alternate an MLP over the tokens, the same for every channel, with one over
the channels, the same for every token. There are no positions and no class token.

GELU is the tanh form and LayerNorm's eps 1e-6, as in the authors' JAX code; timm's default is
the exact GELU. Sides that the patch does not divide are padded by zeros on both sides, the odd
one below and right, as JAX does. The token MLP is tied to the number of tokens: a trained
model takes other images only through `enlarged`, the paper's way to whole multiples of its
size. The authors' stochastic depth does not divide by the share that is kept; ours does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.conv import Conv2d
from vitrail.layers.ffn import Mlp
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import Mean
from vitrail.models.names import mlp_mixer as names
from vitrail.models.trunk.backbone import HALF, Isotropic, Level, Small, Variant, check_image
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table


@dataclass(frozen=True)
class Config:
    """Sizes of a Mixer: `tokens` and `hidden` are the hidden widths of the MLPs over tokens and
    over channels."""

    dim: int = 512
    depth: int = 8
    tokens: int = 256
    hidden: int = 2048
    patch: int = 16
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


def _size(dim: int, depth: int, patch: int) -> Config:
    return Config(dim, depth, tokens=dim // 2, hidden=4 * dim, patch=patch)


# Accuracy of the paper's pre-training on ImageNet-21k; timm measures 76.62 and 72.08 with the
# files that were released for B/16 and L/16, which were fine-tuned otherwise. H/14: of JFT-300M,
# at 448 pixels. Parameters and multiply-adds of the authors' networks, counted.
VARIANTS = {
    "mixer_s32": Variant(_size(512, 8, 32), params_m=19.10, flops_g=1.0),
    "mixer_s16": Variant(_size(512, 8, 16), params_m=18.53, flops_g=3.8),
    "mixer_b32": Variant(_size(768, 12, 32), params_m=60.29, flops_g=3.2),
    "mixer_b16": Variant(
        _size(768, 12, 16),
        params_m=59.88,
        flops_g=12.6,
        top1=80.64,
        hub={"timm": "hf-hub:timm/mixer_b16_224.goog_in21k_ft_in1k"},
    ),
    "mixer_l32": Variant(_size(1024, 24, 32), params_m=206.94, flops_g=11.3),
    "mixer_l16": Variant(
        _size(1024, 24, 16),
        params_m=208.20,
        flops_g=44.6,
        top1=82.89,
        hub={"timm": "hf-hub:timm/mixer_l16_224.goog_in21k_ft_in1k"},
    ),
    "mixer_h14": Variant(_size(1280, 32, 14), params_m=432.0, flops_g=121.0, top1=87.94),
}

SPACE = Small(
    Config(),
    {
        ("dim", "tokens", "hidden"): ((64, 32, 128), (96, 64, 192), (128, 64, 256), (192, 96, 384)),
        "depth": (3, 6),
        "patch": (4, 7, 8, 16),
    },
)


TAKES = HALF  # unless a variant's reference says otherwise
NAMES = names.TABLES


def _stay(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    raise ValueError(
        f"its mixing is of {old[0]}x{old[1]} tokens, not {new[0]}x{new[1]}; `enlarged` goes to a "
        "multiple of the size"
    )


POSITIONS = (Table("blocks.{i}.mixer.fc1.weight", lambda c, _: grid(c, *c.image), _stay),)


def grid(config: Config, h: int, w: int) -> tuple[int, int]:
    """Return the patches down and across of an image of h x w pixels, begun ones included."""
    return math.ceil(h / config.patch), math.ceil(w / config.patch)


def enlarged(
    config: Config, state: Mapping[str, Tensor], times: int
) -> tuple[Config, dict[str, Tensor]]:
    """Return config and weights for images `times` as high and wide, to be fine-tuned: the paper's
    way.

    The grid is cut into times^2 blocks of the old number of tokens, and each is mixed by the old
    MLP: its weights stand on the diagonal of one that is times^2 as wide.
    """
    h, w = grid(config, *config.image)
    new = replace(
        config,
        image=(config.image[0] * times, config.image[1] * times),
        tokens=config.tokens * times**2,
    )
    # The big grid's tokens, block by block: (times, h, times, w) to (times, times, h, w).
    order = torch.arange(h * w * times**2).view(times, h, times, w).transpose(1, 2).flatten()
    moved = dict(state)
    for name, value in state.items():
        if ".mixer." not in name:
            continue
        if name.endswith("bias"):
            full = value.repeat(times**2)
        else:
            full = torch.block_diag(*[value] * times**2)
        if name.endswith("fc1.weight"):
            full = torch.empty_like(full).index_copy_(1, order, full)
        elif ".fc2." in name:
            full = torch.empty_like(full).index_copy_(0, order, full)
        moved[name] = full
    return new, moved


class Embed(nn.Module):
    """Image (B, channels, H, W) to patches (B, h w, C), for the config's number of them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        self.proj = Conv2d(c.channels, c.dim, c.patch, c.patch)

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return the patches down and across; ValueError unless they are those of the config."""
        made, found = grid(self.config, *self.config.image), grid(self.config, h, w)
        if made != found:
            raise ValueError(
                f"image is {h}x{w}; this mixer takes {made[0]}x{made[1]} patches of "
                f"{self.config.patch} pixels: create it with image=({h}, {w}), or resize"
            )
        return found

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        check_image(image, self.config, "mlp_mixer")
        self.grid(*image.shape[-2:])
        below, right = (-side % self.config.patch for side in image.shape[-2:])
        if below or right:
            edges = (right // 2, right - right // 2, below // 2, below - below // 2)
            image = F.pad(image, edges)
        return self.proj(image).flatten(2).mT


class TokenMlp(nn.Module):
    """An MLP over the tokens: (B, N, C) to the same. It multiplies from the left, so that
    nothing is transposed."""

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(tokens, hidden), nn.Linear(hidden, tokens)
        self.act = nn.GELU(approximate="tanh")

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return _from_left(self.fc2, self.act(_from_left(self.fc1, x)))


def _from_left(layer: nn.Linear, x: Tensor) -> Tensor:
    weight = layer.weight.expand(x.shape[0], -1, -1)
    return torch.baddbmm(layer.bias[:, None], weight, x)


class Mixer(Isotropic):
    """Patches, blocks of a token MLP and a channel MLP, mean, linear head."""

    def __init__(self, config: Config) -> None:
        c, norm = config, partial(nn.LayerNorm, eps=1e-6)
        blocks = [
            Block(
                c.dim,
                TokenMlp(math.prod(grid(c, *c.image)), c.tokens),
                Mlp(c.dim, c.hidden, act=nn.GELU(approximate="tanh")),
                norm=norm,
                drop_path=rate,
            )
            for rate in rising(c.drop_path, c.depth)
        ]
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=norm(c.dim),
            pool=Mean(),
            head=linear_head(c.dim, c.classes),
            levels=[Level(c.patch, c.dim)],
        )
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                fan_in = part.weight[0].numel()
                nn.init.trunc_normal_(part.weight, std=fan_in**-0.5)
                nn.init.zeros_(part.bias)  # pyright: ignore[reportArgumentType]
        for p in self.head.parameters():
            nn.init.zeros_(p)


ATTENDS = False  # no part of it has weights that sum to one
MODEL = Mixer
