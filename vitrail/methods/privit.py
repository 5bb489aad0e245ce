"""PriViT: which GELUs and softmaxes of a ViT stay, where each of them is dear.

Dhyani, Mo, Yubeaton, Cho, Joshi, Garg, Reagen, Hegde, "PriViT: Vision Transformers for Fast Private
Inference", TMLR 2024, arXiv 2310.04604. Under secure computation polynomials are cheap and
exponentials and divisions are not. Every token of an MLP has a switch between GELU and the
identity, every row of every head's scores one between softmax and their squares:

    a GELU(x) + (1 - a) x              a (1, N, 1) in each block
    b softmax(s) + (1 - b) s^2 / R     b (1, heads, N, 1), R the number of tokens

The squares are divided by a constant, not by their sum. Switches begin at 1 and are learned as any
weight, without noise or bounds; what is above the threshold 1e-3 counts as on. LayerNorms stay
exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.methods.method import Quiet, seams, wrap
from vitrail.models.trunk.backbone import Isotropic

THRESHOLD = 1e-3


@dataclass(frozen=True)
class PriViT(Quiet):
    """Puts a switch on every GELU and every row of softmax of a ViT or DeiT, all of them on.

    vitrail train --set model=vit_ti16 --set methods=privit ...
    """

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the blocks are plain attention and MLPs of GELU."""
        for seam in seams(model, "blocks.*.mixer"):
            if type(seam.module) is not Attention:
                raise ConfigError(f"privit needs plain attention, and {seam.name} is "
                                  f"{type(seam.module).__name__}")  # fmt: skip
        for seam in seams(model, "blocks.*.ffn"):
            if type(seam.module) is not Mlp or not isinstance(seam.module.act, nn.GELU):
                raise ConfigError(f"privit needs MLPs of GELU, and {seam.name} is not one")

    def apply(self, model: nn.Module) -> nn.Module:
        """Wrap mixers and MLPs; returns the model."""
        n = tokens(model)
        wrap(model, "blocks.*.mixer", lambda mixer: SwitchedAttention(mixer, n))
        return wrap(model, "blocks.*.ffn", lambda ffn: SwitchedMlp(ffn, n))


def tokens(model: Any) -> int:
    """Return how many tokens a model of tokens has at its own image size."""
    assert isinstance(model, Isotropic)
    c = model.config
    parameter = next(model.parameters())
    with torch.no_grad():
        image = torch.zeros(1, c.channels, *c.image, device=parameter.device, dtype=parameter.dtype)
        return model.embed(image).shape[1]


class SwitchedMlp(nn.Module):
    """An MLP whose GELU is switched token by token: (B, N, C) to the same."""

    def __init__(self, ffn: Any, tokens: int) -> None:
        super().__init__()
        self.fc1, self.act, self.dropout, self.fc2 = ffn.fc1, ffn.act, ffn.dropout, ffn.fc2
        self.gelus = nn.Parameter(self.fc1.weight.new_ones(1, tokens, 1))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        inside = self.fc1(x)
        inside = self.gelus * self.act(inside) + (1 - self.gelus) * inside
        return self.fc2(self.dropout(inside))


class SwitchedAttention(nn.Module):
    """Attention whose softmax is switched row by row and head by head: (B, N, C) to the same."""

    def __init__(self, mixer: Any, tokens: int) -> None:
        super().__init__()
        self.heads, self.scale, self.qkv, self.proj = (
            mixer.heads, mixer.scale, mixer.qkv, mixer.proj,
        )  # fmt: skip
        self.softmaxes = nn.Parameter(self.qkv.weight.new_ones(1, self.heads, tokens, 1))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        scores = scale * q @ k.mT
        squares = scores.square() / self.softmaxes.shape[2]
        weights = self.softmaxes * scores.softmax(-1) + (1 - self.softmaxes) * squares
        return self.proj((weights @ v).transpose(1, 2).flatten(2))


def switches(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the switches of GELUs and those of softmaxes, one tensor a block."""
    modules = list(model.modules())
    return (
        [m.gelus for m in modules if isinstance(m, SwitchedMlp)],
        [m.softmaxes for m in modules if isinstance(m, SwitchedAttention)],
    )


def counts(model: nn.Module) -> tuple[int, int]:
    """Return how many tokens of GELU and how many rows of softmax are on."""
    gelus, softmaxes = (
        sum(int((one > THRESHOLD).sum()) for one in kind) for kind in switches(model)
    )
    return gelus, softmaxes


@torch.no_grad()
def binarise(model: nn.Module) -> None:
    """Set every switch to 1 where it is on and to 0 where it is not, and freeze it."""
    for kind in switches(model):
        for one in kind:
            one.copy_(one > THRESHOLD).requires_grad_(False)


def penalties(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the L1 penalties of the training: the sums of |a| and of |b| over all blocks."""
    gelus, softmaxes = (
        torch.stack([one.abs().sum() for one in kind]).sum() for kind in switches(model)
    )
    return gelus, softmaxes
