"""LoRA: a frozen linear layer learns what to add to its weight, as a product of two thin matrices.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen, "LoRA: Low-Rank Adaptation of Large Language
Models", ICLR 2022, arXiv 2106.09685. W x becomes W x + alpha / rank B A x, where A begins as
linear layers of torch do and B at zero, so that training begins at the function of the backbone.
In a deployed or exported model the product is part of the weight, and costs nothing.

Queries, keys and values that come from one layer share A, where the paper adapts queries and values
each by itself. Blocks of which a part is trained drop paths in training as their family does.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.linear import Linear, linear
from vitrail.methods.adapting import frozen, require_alone
from vitrail.methods.method import Quiet, Seam, available, seams, trial


@dataclass(frozen=True)
class LoRA(Quiet):
    """Trains additions of `rank` to linear layers of the blocks, times alpha / rank, and the head.

    `layers` are the last parts of their names, such as qkv, proj, fc1 and fc2 in a vit; a star
    stands for any: `--set 'methods.0.layers=["qkv", "proj"]'`.

    vitrail train --set pretrained=vit.npz --set methods=lora --set methods.0.rank=4 ...
    """

    rank: int = 8
    alpha: float = 16.0
    layers: tuple[str, ...] = ("qkv",)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank is {self.rank}: give 1 or more, 8 is usual")
        if self.alpha <= 0:
            raise ConfigError(f"alpha is {self.alpha}: give a number above 0, twice the rank say")
        if not self.layers:
            raise ConfigError("layers is empty: name some linear layers, such as qkv")

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the blocks have such layers, wide enough, and use them."""
        require_alone("lora", model)
        found = list(self._found(model))
        if not found:
            names = sorted({seam.key.rpartition(".")[2] for seam in linears(model)})
            have = (
                f"those in its blocks are {', '.join(names)}" if names else "its blocks have none"
            )
            raise ConfigError(
                f"lora finds no linear layer called {' or '.join(self.layers)} in this model: "
                f"{have}"
            )
        for seam in found:
            most = min(seam.module.weight.shape)  # pyright: ignore[reportArgumentType]
            if self.rank > most:
                raise ConfigError(
                    f"rank is {self.rank}: {seam.name} has {most} channels on its narrower side, "
                    "so give fewer"
                )
        copy = deepcopy(model)
        if not trial(self, copy) or any(p.grad is None for p in _thin(copy)):
            raise ConfigError(
                f"lora cannot add to {' or '.join(self.layers)} of this model, which reads weights "
                f"past the layer: name other layers; its seams are {', '.join(available(model))}"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the additions in; returns the model."""
        frozen("lora", model)
        for seam in list(self._found(model)):
            made: Any = seam.module
            seam.replace(LowRank(made, self.rank, self.alpha / self.rank))
        return model

    def _found(self, model: nn.Module) -> Iterator[Seam]:
        for seam in linears(model):
            if any(fnmatchcase(seam.key.rpartition(".")[2], part) for part in self.layers):
                yield seam


def linears(model: nn.Module) -> Iterator[Seam]:
    """Find the linear layers inside the blocks of a model."""
    places = [p for p in ("blocks.*", "stages.*.blocks.*") if p in available(model)]
    for block in seams(model, *places) if places else []:
        for name, module in list(block.module.named_modules()):
            if type(module) is Linear:
                path, _, key = name.rpartition(".")
                yield Seam(block.module.get_submodule(path), key, f"{block.name}.{name}")


def _thin(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if isinstance(module, LowRank):
            yield from (module.down, module.up)


class LowRank(Linear):
    """A linear layer with an addition of low rank: (*S, C) to (*S, C').

    The layer's own weight keeps its name; A is `down` (rank, C) and B is `up` (C', rank).
    """

    def __init__(self, made: Linear, rank: int, scale: float) -> None:
        width, out = made.in_features, made.out_features
        super().__init__(width, out, bias=made.bias is not None, device="meta")
        self.weight, self.bias, self.scale = made.weight, made.bias, scale
        self.down = nn.Parameter(made.weight.new_empty(rank, width))
        self.up = nn.Parameter(made.weight.new_zeros(out, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Float[Tensor, "*s c"]) -> Float[Tensor, "*s c2"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x) + self.scale * F.linear(F.linear(x, self.down), self.up)

    def then(self, x: Float[Tensor, "*s c"], act: nn.Module) -> Float[Tensor, "*s c2"]:
        """Return act(layer(x)), in two passes."""
        return act(self(x))

    def deployed(self) -> Linear:
        """Return a plain layer of the same function, the addition in its weight."""
        return linear(self.weight + self.scale * self.up @ self.down, self.bias)
