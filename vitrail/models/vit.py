"""ViT: an image is a sequence of patches, read by a plain pre-norm transformer.

Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; weights of Steiner et al., "How to train
your ViT?" (AugReg), TMLR 2022, arXiv 2106.10270; the class-token-free plain ViT of Beyer et
al., 2022, arXiv 2205.01580.

GELU is the tanh form and LayerNorm's eps 1e-6, as in the authors' JAX code; timm and
transformers compute the exact GELU, which moves logits by about 1e-3. The class token has no
row in the position table: a row of a checkpoint that is added to it is folded into the token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.conv import Conv2d
from vitrail.layers.ffn import Mlp
from vitrail.layers.position import sincos_2d, zoom_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken, Mean
from vitrail.models.backbone import Isotropic, Level, Small, Variant, check_image


@dataclass(frozen=True)
class Config:
    """Sizes of a ViT. `pool` is "token" (class token) or "mean"; `position` is "learned" or
    "sincos"; `pre_logits` is the width of the tanh layer before the head, 0 for none."""

    dim: int = 192
    depth: int = 12
    heads: int = 3
    hidden: int = 768
    patch: int = 16
    pool: str = "token"
    position: str = "learned"
    pre_logits: int = 0
    drop_path: float = 0.0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_SIZES = {
    "ti": Config(dim=192, depth=12, heads=3, hidden=768),
    "s": Config(dim=384, depth=12, heads=6, hidden=1536),
    "b": Config(dim=768, depth=12, heads=12, hidden=3072),
    "l": Config(dim=1024, depth=24, heads=16, hidden=4096),
    "h": Config(dim=1280, depth=32, heads=16, hidden=5120),
}
# size, patch, image, parameters and multiply-adds (counted where not published), accuracy of
# AugReg's weights pre-trained on ImageNet-21k, timm's name for them
_ROWS = [
    ("ti", 16, 224, 5.72, 1.26, 75.45, "tiny"),
    ("s", 32, 224, 22.88, 1.15, 76.01, "small"),
    ("s", 16, 224, 22.05, 4.6, 81.40, "small"),
    ("b", 32, 224, 88.22, 4.4, 80.73, "base"),
    ("b", 16, 224, 86.57, 17.6, 84.53, "base"),
    ("b", 8, 224, 86.58, 78.0, 85.8, "base"),
    ("l", 32, 224, 305.5, 15.4, None, None),
    ("l", 16, 224, 304.3, 61.6, 85.86, "large"),
    ("h", 14, 224, 630.8, 167.0, None, None),
    ("ti", 16, 384, 5.79, 4.68, 78.44, "tiny"),
    ("s", 32, 384, 22.92, 3.44, 80.48, "small"),
    ("s", 16, 384, 22.20, 15.49, 83.81, "small"),
    ("b", 32, 384, 88.30, 13.04, 83.36, "base"),
    ("b", 16, 384, 86.86, 55.48, 86.01, "base"),
    ("l", 16, 384, 304.7, 191.1, 87.10, "large"),
]
VARIANTS = {
    f"vit_{size}{patch}" + ("" if image == 224 else f"_{image}"): Variant(
        replace(_SIZES[size], patch=patch, image=(image, image)),
        params_m=params_m,
        flops_g=flops_g,
        top1=top1,
        hub={"timm": f"hf-hub:timm/vit_{long}_patch{patch}_{image}.augreg_in21k_ft_in1k"}
        if long
        else {},
    )
    for size, patch, image, params_m, flops_g, top1, long in _ROWS
}

SPACE = Small(
    Config(dim=64, depth=4, heads=2, hidden=256, patch=4, pool="mean", position="sincos"),
    {
        ("dim", "heads", "hidden"): ((64, 2, 128), (96, 3, 192), (128, 4, 256), (192, 4, 384)),
        "depth": (3, 6),
        "patch": (4, 7, 8, 16),
    },
)

_BLOCK = [(".attn.", ".mixer."), (".mlp.", ".ffn.")]


def _class_row(table: Tensor) -> tuple[Tensor, Tensor]:
    """A (1, 1 + N, C) table as what it adds to the class token, and the patches' table."""
    return table[:, :1], table[:, 1:]


def _timm(config: Config) -> list:
    token = config.pool == "token"
    return [
        ("cls_token", "embed.token[+]"),
        *([("pos_embed", ("embed.token[+]", "embed.position"), _class_row)] if token else []),
        ("pos_embed", "embed.position"),
        ("patch_embed.", "embed."),
        ("fc_norm.", "norm."),
        *_BLOCK,
    ]


def _kernel(value: Tensor) -> Tensor:
    """Flax (in, out) to torch (out, in)."""
    return value.mT


def _into_heads(value: Tensor) -> Tensor:
    """Flax (C, heads, d) or (heads, d) to (heads d, C) or (heads d)."""
    return value.flatten(-2).mT if value.ndim == 3 else value.flatten()


def _npz(config: Config) -> list:
    """Flax names of both numberings: LayerNorm_2 and MlpBlock_3, or LayerNorm_1 and _0."""
    inside = "Transformer/encoderblock_{i}/"
    attention = inside + "MultiHeadDotProductAttention_{k}/"
    joined = [
        (f"{attention}{name}/{leaf}", f"blocks.{{i}}.mixer.qkv.{ours}[{part}/3]", _into_heads)
        for part, name in enumerate(("query", "key", "value"))
        for leaf, ours in (("kernel", "weight"), ("bias", "bias"))
    ]
    return [
        ("cls", "embed.token"),
        ("pos_embedding", "embed.position"),
        (
            "Transformer/posembed_input/pos_embedding",
            ("embed.token[+]", "embed.position"),
            _class_row,
        ),
        ("embedding/kernel", "embed.proj.weight", lambda v: v.permute(3, 2, 0, 1)),
        ("embedding/bias", "embed.proj.bias"),
        *joined,
        (f"{attention}out/kernel", "blocks.{i}.mixer.proj.weight", lambda v: v.flatten(0, 1).mT),
        (f"{attention}out/bias", "blocks.{i}.mixer.proj.bias"),
        (f"{inside}LayerNorm_0/", "blocks.{i}.norm1."),
        (f"{inside}LayerNorm_{{k}}/", "blocks.{i}.norm2."),
        (f"{inside}MlpBlock_{{k}}/Dense_0/", "blocks.{i}.ffn.fc1."),
        (f"{inside}MlpBlock_{{k}}/Dense_1/", "blocks.{i}.ffn.fc2."),
        ("Transformer/encoder_norm/", "norm."),
        ("pre_logits/", "pre_logits.0."),
        ("head/", "head."),
        (".kernel", ".weight", _kernel),
        (".scale", ".weight"),
    ]


_TRANSFORMERS = [
    ("vit.", ""),
    ("embeddings.cls_token", "embed.token[+]"),
    ("embeddings.position_embeddings", ("embed.token[+]", "embed.position"), _class_row),
    ("embeddings.patch_embeddings.projection.", "embed.proj."),
    ("encoder.layer.", "layers."),
    ("layers.{i}.", "blocks.{i}."),
    *[  # the second form of each name is that of release 5 and later
        (f".attention.{old}.{leaf}", f".mixer.qkv.{leaf}[{part}/3]")
        for part, names in enumerate(zip(("query", "key", "value"), "qkv", strict=True))
        for old in (f"attention.{names[0]}", f"{names[1]}_proj")
        for leaf in ("weight", "bias")
    ],
    (".attention.output.dense.", ".mixer.proj."),
    (".attention.o_proj.", ".mixer.proj."),
    (".intermediate.dense.", ".ffn.fc1."),
    (".output.dense.", ".ffn.fc2."),
    (".mlp.", ".ffn."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    ("layernorm.", "norm."),
    ("classifier.", "head."),
]
# big_vision in timm's names: the position table has no row for the class token.
_BIG_VISION = [
    ("cls_token", "embed.token"),
    ("pos_embed", "embed.position"),
    ("patch_embed.", "embed."),
    *_BLOCK,
]
NAMES: dict[str, list | Callable[[Config], list]] = {
    "google-research/vision_transformer": _timm,
    "google-research/big_vision": _BIG_VISION,
    "npz": _npz,
    "timm": _timm,
    "transformers": _TRANSFORMERS,
}


def resample(state: dict[str, Tensor], old: Config, new: Config) -> dict[str, Tensor]:
    """Move positions to another image size: linear, corners coinciding, as the authors do."""
    if "embed.position" not in state or new.position != "learned":
        return state
    grids = [(c.image[0] // c.patch, c.image[1] // c.patch) for c in (old, new)]
    return {**state, "embed.position": zoom_grid(state["embed.position"], *grids)}


def fitted(config: Config, state: Mapping[str, Tensor]) -> Config | None:
    """The config with the classes and the (square) image that a state's shapes tell."""
    side = math.isqrt(rows := state["embed.position"].shape[1])
    if side**2 != rows:
        return None
    image = (side * config.patch, side * config.patch)
    return replace(config, classes=state["head.weight"].shape[0], image=image)


class PatchEmbed(nn.Module):
    """Patches of p x p pixels, each a token by one linear map, plus positions and class token.

    (B, channels, H, W) to (B, token + H W / p^2, C). At another image size than the config's
    the learned positions are resampled on the way.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        h, w = config.image
        if h % config.patch or w % config.patch:
            raise ValueError(
                f"image is {h}x{w}; vit needs multiples of its patch {config.patch}: "
                "choose another patch or resize"
            )
        self.config = config
        self.proj = Conv2d(config.channels, config.dim, config.patch, config.patch)
        fan_in = config.channels * config.patch**2
        nn.init.trunc_normal_(self.proj.weight, std=fan_in**-0.5)
        nn.init.zeros_(self.proj.bias)  # pyright: ignore[reportArgumentType]
        rows = h * w // config.patch**2
        if config.position == "learned":
            self.position = nn.Parameter(torch.randn(1, rows, config.dim) * config.dim**-0.5)
        elif config.position != "sincos":
            raise ValueError(f"position is {config.position!r}: expected learned or sincos")
        self.token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.pool == "token" else None

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Patches down and across of an image of h x w pixels."""
        return h // self.config.patch, w // self.config.patch

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n d"]:
        check_image(image, self.config, "vit")
        grid = self.grid(*image.shape[-2:])
        x = self.proj(image).flatten(2).mT
        x = x + self._positions(grid).to(x)
        return x if self.token is None else torch.cat([self.token.expand(len(x), -1, -1), x], 1)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if self.config.position == "sincos":
            return sincos_2d(grid, self.config.dim)
        return zoom_grid(self.position, self.grid(*self.config.image), grid)


class ViT(Isotropic):
    """Patch embedding, pre-norm transformer blocks, class token or mean, linear head."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        if config.pool not in ("token", "mean"):
            raise ValueError(f"pool is {config.pool!r}: expected token or mean")
        norm = partial(nn.LayerNorm, eps=1e-6)
        blocks = [
            Block(
                config.dim,
                Attention(config.dim, config.heads),
                Mlp(config.dim, config.hidden, act=nn.GELU(approximate="tanh")),
                norm=norm,
                drop_path=rate,
            )
            for rate in rising(config.drop_path, config.depth)
        ]
        super().__init__(
            config,
            embed=PatchEmbed(config),
            blocks=blocks,
            norm=norm(config.dim),
            pool=FirstToken() if config.pool == "token" else Mean(),
            head=nn.Linear(config.pre_logits or config.dim, config.classes),
            levels=[Level(config.patch, config.dim)],
        )
        if config.pre_logits:
            self.pre_logits = nn.Sequential(nn.Linear(config.dim, config.pre_logits), nn.Tanh())
            self.width = config.pre_logits
        self._init()

    def embedding(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b width"]:
        x = super().embedding(image)
        return self.pre_logits(x) if self.config.pre_logits else x

    def _init(self) -> None:
        """Xavier for q, k, v each by itself and the rest of the blocks; a zero head."""
        for block in self.blocks:
            for name, p in block.named_parameters():
                if p.ndim == 2:
                    for part in p.chunk(3) if name == "mixer.qkv.weight" else [p]:
                        nn.init.xavier_uniform_(part)
                elif name.endswith("bias"):
                    nn.init.normal_(p, std=1e-6) if ".fc" in name else nn.init.zeros_(p)
        nn.init.zeros_(self.head.weight)  # pyright: ignore[reportArgumentType]
        nn.init.zeros_(self.head.bias)  # pyright: ignore[reportArgumentType]


MODEL = ViT
