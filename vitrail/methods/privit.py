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
from torch import nn

from vitrail.errors import ConfigError
from vitrail.layers.attention import Attention
from vitrail.layers.ffn import Mlp
from vitrail.layers.switches import (
    THRESHOLD,
    SwitchedAttention,
    SwitchedMlp,
    binarise,
    counts,
    penalties,
    switches,
)
from vitrail.methods.method import Quiet, seams, wrap
from vitrail.models.trunk.backbone import Isotropic

__all__ = [
    "THRESHOLD", "PriViT", "SwitchedAttention", "SwitchedMlp", "binarise", "counts", "penalties",
    "switches", "tokens",
]  # fmt: skip


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
