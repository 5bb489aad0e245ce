"""How much of a model goes, learned with its weights: UVC's scores, counts, gates and budget.

Yu, Chen, Shen, Yuan, Tan, Yang, Liu, Wang, "Unified Visual Transformer Compression", ICLR 2022,
arXiv 2203.08243. For L blocks of H heads of d channels, D = H d, and M neurons:

    s (L, 2)    heads and neurons that go from a block       y (L, 2)    their multipliers
    r (L, H)    channels that go from each head              p (L, H)    theirs
    gates (L, 2)  the logits of skipping and of running a block          z  that of the budget

Numbers that go are rounded up, and the gradient passes as if they were not. A group is a column of
a block's two output matrices, its score the sum of squares; `least` is the sum of the smallest
scores of those that go, and its derivative the next one. The budget is a share of the multiply-adds
as the authors count them: norms and the head are left out, and q and k are charged by heads only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from vitrail.errors import ConfigError
from vitrail.models.trunk.backbone import Backbone
from vitrail.models.trunk.widths import Cut, heads_of


class _RoundedUp(Function):
    """ceil whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.ceil()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad


class _Least(Function):
    """The sum of the ceil(count) smallest of each row of scores; see `least`."""

    @staticmethod
    def forward(ctx: Any, count: Tensor, scores: Tensor) -> Tensor:
        whole, order = count.ceil().long()[..., None], scores.sort(dim=-1, stable=True)
        sums = torch.nn.functional.pad(order.values.cumsum(-1), (1, 0))
        last = scores.shape[-1] - 1
        ctx.save_for_backward(order.values.gather(-1, whole.clamp(max=last)).squeeze(-1))
        return sums.gather(-1, whole.clamp(max=last + 1)).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (following,) = ctx.saved_tensors
        return grad * following, None


def rounded_up(x: Tensor) -> Tensor:
    """Return ceil(x), with the gradient of x."""
    return _RoundedUp.apply(x)  # pyright: ignore[reportReturnType]


def least(count: Tensor, scores: Tensor) -> Tensor:
    """Return the sum of the ceil(`count`) smallest of `scores` (..., n), for counts (...).

    Its derivative by the count is the next smallest score, the largest where none is left; scores
    take no gradient.
    """
    return _Least.apply(count, scores)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a plain transformer with the same block throughout, and of its image."""

    blocks: int
    dim: int
    heads: int
    hidden: int
    patch: int
    channels: int
    patches: int
    tokens: int

    @property
    def width(self) -> int:
        """Return the number of channels of one head."""
        return self.dim // self.heads


def sizes_of(model: Backbone) -> Sizes:
    """Return the sizes of a ViT or DeiT. Raises ConfigError unless all its blocks are alike."""
    config: Any = model.config
    try:
        patches = (config.image[0] // config.patch) * (config.image[1] // config.patch)
        pool = getattr(config, "pool", "token")
        prefix = 1 + bool(getattr(config, "distilled", False)) if pool == "token" else 0
        found = Sizes(
            config.depth, config.dim, config.heads, config.hidden, config.patch, config.channels,
            patches, patches + prefix,
        )  # fmt: skip
        inner = config.inner or config.dim
    except AttributeError as error:
        raise ConfigError(
            f"UVC knows plain transformers as ViT and DeiT, and the model has no {error.name}"
        ) from error
    if not all(isinstance(n, int) for n in (found.heads, found.hidden, inner)) or pool == "map":
        raise ConfigError("UVC needs blocks that are all alike: give a run that was not cut yet")
    if inner != found.dim:
        raise ConfigError(f"UVC needs heads that are as wide as the model, not {inner} channels")
    return found


@dataclass(frozen=True, eq=False)
class Scores:
    """Sums of squares of the groups of all blocks: `channels` (L, H, d), `neurons` (L, M)."""

    channels: Tensor
    neurons: Tensor

    @property
    def heads(self) -> Tensor:
        """Return the scores of whole heads (L, H)."""
        return self.channels.sum(-1)


def scores(model: Backbone, heads: int) -> Scores:
    """Return the scores of a plain transformer's groups, without gradients."""
    with torch.no_grad():
        blocks: list[Any] = list(model.blocks)  # pyright: ignore[reportArgumentType]
        proj = torch.stack([block.mixer.proj.weight.square().sum(0) for block in blocks])
        fc2 = torch.stack([block.ffn.fc2.weight.square().sum(0) for block in blocks])
    return Scores(proj.unflatten(1, (heads, -1)), fc2)


def penalties(s: Tensor, r: Tensor, y: Tensor, p: Tensor, found: Scores) -> tuple[Tensor, Tensor]:
    """Return what the multipliers y and p charge for groups that go and are not zero yet."""
    gone = torch.stack([least(s[:, 0], found.heads), least(s[:, 1], found.neurons)], 1)
    return (y * gone).sum(), (p * least(r, found.channels)).sum()


def resource(s: Tensor, r: Tensor, gates: Tensor, found: Scores, sizes: Sizes) -> Tensor:
    """Return the multiply-adds of what stays as a share of the whole model's.

    `gates` (L,) is how much each block runs, from 0 to 1.
    """
    n, d, m = sizes.tokens, sizes.dim, sizes.hidden
    qkv, product = 3 * n * d * d, n * n * d
    stem = sizes.patches * d * sizes.patch**2 * sizes.channels
    s, r = rounded_up(s), rounded_up(r)
    # Which heads go is decided by their scores; those that go are counted as whole heads.
    place = found.heads.argsort(dim=1, stable=True).argsort(dim=1)
    stays = (place >= s[:, :1]).to(r.dtype)
    a = (sizes.heads - s[:, 0]) / sizes.heads
    b = (d - s[:, 0] * sizes.width - (r * stays).sum(1)) / d
    c = (m - s[:, 1]) / m
    block = (qkv + product) * a + (product + n * d * d) * b + 2 * n * d * m * c
    return (stem + (gates * block).sum()) / full(sizes)


def full(sizes: Sizes) -> int:
    """Return the multiply-adds of the whole model for one image, as the authors count them."""
    n, d = sizes.tokens, sizes.dim
    block = 4 * n * d * d + 2 * n * n * d + 2 * n * d * sizes.hidden
    return sizes.patches * d * sizes.patch**2 * sizes.channels + sizes.blocks * block


def stays(s: Tensor, r: Tensor, found: Scores) -> tuple[Tensor, Tensor]:
    """Return which channels (L, H, d) and neurons (L, M) stay: all but those of the least scores.

    Of a head that goes no channel stays; of equal scores the first goes first.
    """
    heads = kept(s[:, 0], found.heads)
    channels = kept(r, found.channels) & heads[..., None]
    return channels, kept(s[:, 1], found.neurons)


def kept(count: Tensor, scored: Tensor) -> Tensor:
    """Return which groups of scores (..., n) are not the ceil(`count`) of the least."""
    place = scored.argsort(dim=-1, stable=True).argsort(-1)
    return place >= count.ceil().long()[..., None]


def cut(s: Tensor, r: Tensor, runs: Tensor, found: Scores, config: Any) -> Cut:
    """Return the cut that UVC's counts mean; `runs` (L,) says which blocks stay.

    A block's heads are of one width in a model like any other: that of the widest head which stays,
    so that others keep a few channels more, their best. q and k lose the channels that v loses.
    """
    channels, neurons = stays(s, r, found)
    if not runs.any():
        raise ConfigError("no block would stay: give a larger budget")
    channels_of, heads = {}, {}
    for block in range(len(s)):
        rows = channels[block].any(1).nonzero().flatten().tolist()
        width = int(channels[block].sum(1).max())
        own = channels.shape[2]
        best = found.channels[block].argsort(dim=1, descending=True, stable=True)[:, :width]
        channels_of[f"inner.{block}"] = tuple(
            own * head + c for head in rows for c in sorted(best[head].tolist())
        )
        heads[f"inner.{block}"] = len(rows)
        channels_of[f"hidden.{block}"] = tuple(neurons[block].nonzero().flatten().tolist())
        if heads_of(config, f"inner.{block}") != channels.shape[1]:
            raise ConfigError(f"block {block} has other heads than its scores")
    without = tuple((~runs).nonzero().flatten().tolist())
    return Cut(channels_of, heads, without)
