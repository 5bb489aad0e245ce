"""VPT: a frozen transformer learns a task by a few tokens of its input, the prompts, and the head.

Jia, Tang, Chen, Cardie, Belongie, Hariharan, Lim, "Visual Prompt Tuning", ECCV 2022, arXiv
2203.12119. Prompts stand between the prefix tokens and the patches and have no position. "shallow"
ones go in once, before the first block; "deep" ones are new before every block, and what the block
before made of them is dropped. In a Swin they are part of every window (`prompted_windows`).

Outputs at deep prompts are read by nobody, so nothing is computed for them but keys and values,
where blocks and pool allow it; the result is the same. Where the pool is a mean over all tokens,
prompts count in it, as in the authors' code. The head keeps the initialisation of its family, where
theirs is Kaiming's with a bias of -log 99.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.attention import Attention, attend
from vitrail.layers.residual import Block
from vitrail.layers.tokens import FirstToken
from vitrail.methods.adapting import frozen, require_alone
from vitrail.methods.dropping import Leaving
from vitrail.methods.method import Quiet, available, works
from vitrail.methods.prompted_windows import install_windows, windowed
from vitrail.methods.prompts import Prompts
from vitrail.models.deit import FirstTokens
from vitrail.models.trunk.backbone import input_shape

Placed = Literal["deep", "shallow"]
Pool = Literal["own", "patches", "prompts", "both"]
# Every block attends to all prompts, so a slip of the pen would ask for terabytes.
MOST = 10_000


@dataclass(frozen=True)
class VPT(Quiet):
    """Trains `prompts` tokens, before every block ("deep") or the first ("shallow"), and the head.

    With a `projection` above 0 prompts are so wide and pass one linear layer that all blocks share.
    `dropout` acts on prompts in training. `pool` is the model's "own", or the mean over "patches",
    "prompts" or "both". No prompts at all leave the head to be trained. The paper tries 1 to 200
    prompts, with SGD at base learning rates from 0.05 to 50.

    "deep" prompts may be for the first `layers` alone (0 is all), or with `reverse` for the last
    ones, and `shared` by all of them. Behind the last block that has some they go on as tokens,
    unless `expand` is off.

    vitrail train --set model=vit_b16 --set pretrained=vit.npz --set methods=vpt ...
    """

    prompts: int = 10
    placed: Placed = "deep"
    projection: int = 0
    dropout: float = 0.0
    pool: Pool = "own"
    layers: int = 0
    reverse: bool = False
    shared: bool = False
    expand: bool = True

    def __post_init__(self) -> None:
        counts = {"prompts": self.prompts, "projection": self.projection, "layers": self.layers}
        for name, value in counts.items():
            if value < 0:
                raise ConfigError(f"{name} is {value}: give a whole number, 0 for none")
            if value > MOST:
                raise ConfigError(f"{name} is {value}: give at most {MOST:,}, 1 to 200 are usual")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}: give a share in [0, 1), 0 is usual")
        for name, value, known in (
            ("placed", self.placed, Placed),
            ("pool", self.pool, Pool),
        ):
            if value not in get_args(known):
                raise ConfigError(
                    f"{name} {value!r} is unknown: give one of {', '.join(get_args(known))}"
                )
        if self.pool == "prompts" and not self.prompts:
            raise ConfigError("pool is 'prompts' and prompts is 0: give at least one prompt")
        if self.placed == "shallow" and (self.layers or self.reverse or self.shared):
            raise ConfigError(
                "layers, reverse and shared are of deep prompts: leave them out, or set placed=deep"
            )
        if self.pool in ("prompts", "both") and not self.expand:
            raise ConfigError(
                f"pool is {self.pool!r} and expand is off, so prompts may be gone at the end: "
                "leave one of them out"
            )

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless blocks take more tokens and nothing else adapts them."""
        require_alone("vpt", model)
        if any(isinstance(module, Leaving) for module in model.modules()):
            raise ConfigError(
                "vpt comes after a method that leaves patches out, and places of tokens would be "
                "mixed up: take one of them"
            )
        if windowed(model):
            if self.projection or self.pool != "own":
                raise ConfigError(
                    "vpt has neither a projection nor a pool of its own in windows, whose stages "
                    "differ in width: leave projection at 0 and pool at 'own'"
                )
            if self.layers or self.reverse or self.shared or not self.expand:
                raise ConfigError(
                    "vpt in windows has prompts in all blocks or the first: leave layers, reverse, "
                    "shared and expand out"
                )
            return
        depth = len(getattr(model, "blocks", ()))
        if self.layers > depth:
            raise ConfigError(f"layers is {self.layers}: this model has {depth} blocks")
        blocks = getattr(model, "blocks", nn.ModuleList())
        convolve = any(isinstance(m, nn.Conv1d | nn.Conv2d) for m in blocks.modules())
        has_grid = hasattr(getattr(model, "embed", None), "grid")
        if convolve or not has_grid or not works(self, model):
            raise ConfigError(
                f"vpt cannot add {self.prompts} tokens to this model: it needs blocks that take "
                "any number of them, such as vit, deit or cait, or the windows of swin; this one "
                f"has the seams {', '.join(available(model))}"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the prompts in; returns the model."""
        frozen("vpt", model)
        if not self.prompts:
            return model
        if windowed(model):
            return install_windows(model, self.prompts, self.placed == "deep", self.dropout)
        return self._install(model)

    def _install(self, model: Any) -> nn.Module:
        depth = len(model.blocks)
        layers = (self.layers or depth) if self.placed == "deep" else 1
        first = depth - layers if self.reverse else 0
        model.prompts = Prompts(
            [model.levels[-1].channels] * (1 if self.shared else layers),
            self.prompts,
            config=model.config,
            stride=model.levels[0].stride,
            projection=self.projection,
            dropout=self.dropout,
            like=next(model.blocks.parameters()),
        )
        prefix = prefix_of(model)
        read = self.pool != "own" or not isinstance(model.pool, FirstToken | FirstTokens)
        plain = all(type(b) is Block and type(b.mixer) is Attention for b in model.blocks)
        kind = Keys if layers == depth and plain and not read else Prompted
        for j, block in enumerate(model.blocks):
            prompted, end = first <= j < first + layers, j == depth - 1
            layer = (0 if self.shared else j - first) if prompted else None
            # The next block brings its own, or nobody reads them.
            replaced = prompted and (j < first + layers - 1 or not self.expand)
            leaves = (replaced or (end and (prompted or self.expand))) and not (read and end)
            if layer is not None or leaves:
                model.blocks[j] = kind(block, model.prompts, layer, prefix, leaves)
        if self.pool != "own":
            model.pool = PromptPool(prefix, self.prompts, self.pool)
        return model


class Prompted(nn.Module):
    """A block that sees prompts: (B, prefix + n, C) to the same, or with p prompts more.

    Puts in the prompts of `layer`, unless it is None, and takes them out behind the block where it
    `leaves` them behind.
    """

    def __init__(
        self, block: nn.Module, prompts: Prompts, layer: int | None, prefix: int, leaves: bool
    ) -> None:
        super().__init__()
        self.block = block
        self.layer, self.prefix, self.leaves, self.count = layer, prefix, leaves, prompts.count
        self.source = (prompts,)  # a parameter of the model, so no part of the block

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n2 c"]:
        first = self.prefix
        if self.layer is not None:
            prompts = self.source[0](self.layer, x.shape[0])
            x = torch.cat([x[:, :first], prompts.expand(x.shape[0], -1, -1), x[:, first:]], 1)
        x = self.block(x)
        return torch.cat([x[:, :first], x[:, first + self.count :]], 1) if self.leaves else x


class Keys(Prompted):
    """A block that sees prompts as keys and values alone: (B, N, C) to the same.

    Equals `Prompted` where prompts are left behind, since nobody reads what comes of them.
    """

    block: Any

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        block, mixer = self.block, self.block.mixer
        _, more_keys, more_values = self._heads(self.source[0](self.layer, x.shape[0]))
        q, k, v = self._heads(x)
        k, v = (
            torch.cat([more.expand(x.shape[0], -1, -1, -1), own], 2)
            for more, own in ((more_keys, k), (more_values, v))
        )
        dropout = mixer.dropout if mixer.training else 0.0
        out = attend(q, k, v, scale=mixer.scale, dropout=dropout)
        out = mixer.proj(out.transpose(1, 2).flatten(2))
        x = x + block.drop_path(block.scale1(out))
        return x + block.drop_path(block.scale2(block.ffn(block.norm2(x))))

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        mixer = self.block.mixer
        width = mixer.proj.in_features // mixer.heads
        qkv = mixer.qkv(self.block.norm1(x)).view(*x.shape[:2], 3, mixer.heads, width)
        return qkv.permute(2, 0, 3, 1, 4).unbind()


class PromptPool(nn.Module):
    """The mean over patches, prompts or both: (B, prefix + p + n, C) to (B, C)."""

    def __init__(self, prefix: int, count: int, pool: Pool) -> None:
        super().__init__()
        self.first = prefix + (count if pool == "patches" else 0)
        self.last = prefix + count if pool == "prompts" else None

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b c"]:
        return x[:, self.first : self.last].mean(1)


def prefix_of(model: Any) -> int:
    """Return how many tokens come before the patches."""
    embed = deepcopy(model.embed).to("meta").eval()
    dtype = next(embed.parameters()).dtype
    tokens = embed(torch.zeros(1, *input_shape(model.config), device="meta", dtype=dtype))
    return max(0, tokens.shape[1] - math.prod(embed.grid(*model.config.image)))
