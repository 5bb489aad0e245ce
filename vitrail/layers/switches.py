"""Switches between what is dear under secure computation and what is cheap: PriViT's.

Dhyani et al., "PriViT: Vision Transformers for Fast Private Inference", TMLR 2024, arXiv
2310.04604. Every token of an MLP has a switch between GELU and the identity, every row of every
head's scores one between softmax and their squares. They begin at 1; above THRESHOLD a switch
counts as on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

THRESHOLD = 1e-3


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
    gelus, softmaxes = (on(kind) for kind in switches(model))
    return gelus, softmaxes


def on(kind: Sequence[Tensor]) -> int:
    """Return how many switches of some tensors are on."""
    return sum(int((one > THRESHOLD).sum()) for one in kind)


@torch.no_grad()
def keep(kind: Sequence[Tensor], count: int) -> None:
    """Set the `count` largest switches of some tensors to 1 and all others to 0, in place.

    Of equal ones the first stay.
    """
    flat = flattened(kind)
    kept = torch.zeros_like(flat)
    kept[flat.argsort(descending=True, stable=True)[:count]] = 1
    put(kind, kept)


def flattened(kind: Sequence[Tensor]) -> Tensor:
    """Return the switches of some tensors behind each other (n,)."""
    return torch.cat([one.detach().flatten() for one in kind])


@torch.no_grad()
def put(kind: Sequence[Tensor], values: Tensor) -> None:
    """Set the switches of some tensors, in place, to what `flattened` gave once."""
    for one, own in zip(kind, values.split([one.numel() for one in kind]), strict=True):
        one.copy_(own.view_as(one))


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
