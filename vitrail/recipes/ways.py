"""Ways to adapt a trained backbone to a task, each with the learning rate that it is tried at.

What VPT's paper compares (Jia et al., ECCV 2022, arXiv 2203.12119), with LoRA and LayerNorms beside
it. What begins at random, a head or prompts, takes larger steps than what is trained already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vitrail.config import nearest
from vitrail.errors import ConfigError
from vitrail.methods import (
    VPT,
    Adapter,
    BiasTuning,
    Freeze,
    LoRA,
    Methods,
    MlpHead,
    NormTuning,
    SideTune,
)
from vitrail.recipes.base import settled, weights_of
from vitrail.recipes.defaults import FINE_TUNING, default
from vitrail.recipes.recipe import Data, Recipe
from vitrail.training.optimizer import AdamW, Optimizer


@dataclass(frozen=True)
class Way:
    """Methods that say what is trained, and the optimizer; no methods train everything."""

    methods: tuple[Methods, ...]
    optimizer: Optimizer


WAYS: Mapping[str, Way] = {
    "linear": Way((Freeze(),), AdamW(lr=1e-2, weight_decay=0.0)),
    "partial-1": Way((Freeze(1),), AdamW(lr=1e-3)),
    "mlp-3": Way((MlpHead(),), AdamW(lr=1e-3)),
    "side-tune": Way((SideTune(),), AdamW(lr=1e-3)),
    "bias": Way((BiasTuning(),), AdamW(lr=5e-3)),
    "norm": Way((NormTuning(),), AdamW(lr=5e-3)),
    "adapter": Way((Adapter(),), AdamW(lr=2e-3)),
    "lora": Way((LoRA(),), AdamW(lr=2e-3)),
    "vpt-shallow": Way((VPT(placed="shallow"),), AdamW(lr=1e-2, weight_decay=0.0)),
    "vpt-deep": Way((VPT(),), AdamW(lr=1e-2, weight_decay=0.0)),
    "full": Way((), FINE_TUNING),
}


def chosen(only: Sequence[str]) -> list[str]:
    """Return the names of the ways to try: those that are named, or all. Raises ConfigError."""
    for name in only:
        if name not in WAYS:
            raise ConfigError(f"way {name!r} is unknown: {nearest(name, [*WAYS])}")
    return [name for name in WAYS if not only or name in only]


@dataclass(frozen=True)
class Start:
    """Where adapting starts: the base, the config of its model for the classes at hand, the data
    and the number of training images."""

    base: str
    config: Any
    data: Data
    images: int


def recipe_of(name: str, start: Start, *, total: int, seed: int, device: str) -> Recipe:
    """Return the recipe of a way for `total` steps."""
    way, base = WAYS[name], settled(start.base)
    made = default(
        start.config, start.data, images=start.images, total=total, seed=seed,
        pretrained=weights_of(base), device=device,
    )  # fmt: skip
    shared = base if way.methods else None
    return replace(made, methods=way.methods, optimizer=way.optimizer, base=shared)
