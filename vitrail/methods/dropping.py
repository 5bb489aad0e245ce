"""Leaving patches out between an embedding and the blocks: what patch_dropout and pss share.

The embedding of a model is replaced by one that gives some of its tokens. Which ones stands in
`Kept`, from which the tables of relative positions in the blocks read the pairs that are left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.position import BiasTable
from vitrail.layers.protocols import Patchwise
from vitrail.methods.adapting import adapted_by
from vitrail.methods.method import Quiet, available, seams, works


class Kept:
    """Which tokens the running forward pass keeps: numbers (B, prefix + k), or None for all.

    `every` counts all of them, prefix + n.
    """

    def __init__(self) -> None:
        self.tokens: Tensor | None = None
        self.every = 0
        self._pairs: dict[int, Tensor] = {}

    def put(self, tokens: Int[Tensor, "b t"] | None, every: int = 0) -> None:
        """Set what this pass keeps."""
        self.tokens, self.every, self._pairs = tokens, every, {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which starts without what a pass keeps."""
        return {"tokens": None, "every": 0, "_pairs": {}}

    def pairs(self, index: Int[Tensor, "n n"]) -> Int[Tensor, "b t t"] | None:
        """Return the entries of an index of all pairs of tokens at the pairs that are kept.

        Blocks that share an index share what is read from it. None where all are kept.
        """
        if self.tokens is None:
            return None
        if id(index) not in self._pairs:
            at, whole = self.tokens, index.to(self.tokens.device)
            self._pairs[id(index)] = whole[at[:, :, None], at[:, None, :]]
        return self._pairs[id(index)]


class KeptBias(nn.Module):
    """A table of relative positions, read at the tokens that are kept: (B, heads, t, t).

    They are those of the last forward pass: with gradient checkpointing the backward pass, which
    reads them again, must come before another forward pass.
    """

    def __init__(self, bias: BiasTable, kept: Kept) -> None:
        super().__init__()
        self.bias, self.kept = bias, kept

    def forward(self) -> Float[Tensor, "b heads t t"]:
        pairs = self.kept.pairs(self.bias.index)
        if pairs is None:
            return self.bias()
        return F.embedding(pairs, self.bias.table).permute(0, 3, 1, 2).contiguous()


class Leaving(nn.Module):
    """Leaves patches out of what the module `inner` gives, in whose mode it starts.

    `keep` is the share that stays in training, `test_keep` in eval mode.
    """

    def __init__(self, inner: nn.Module, keep: float, test_keep: float) -> None:
        super().__init__()
        self.keep, self.test_keep = keep, test_keep
        self.training = inner.training

    @property
    def share(self) -> float:
        """Return the share that stays in this mode."""
        return self.keep if self.training else self.test_keep


class Dropping(Leaving):
    """An embedding that leaves patches out: (B, channels, H, W) to (B, prefix + k, C).

    Who derives from it counts and chooses those that stay. Where all stay the result is the
    embedding's.
    """

    def __init__(self, embed: nn.Module, keep: float, test_keep: float) -> None:
        super().__init__(embed, keep, test_keep)
        self.embed, self.kept = embed, Kept()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of patches of an image, as the embedding does."""
        whole: Any = self.embed
        return whole.grid(height, width)

    def patches(self, image: Float[Tensor, "b channels h w"]) -> int:
        """Return how many patches an image has."""
        return math.prod(self.grid(*image.shape[-2:]))

    def whole(self, image: Float[Tensor, "b channels h w"]) -> Tensor:
        """Return all tokens."""
        self.kept.put(None)
        return self.embed(image)

    def some(
        self, image: Float[Tensor, "b channels h w"], places: Int[Tensor, "b k"]
    ) -> Float[Tensor, "b t c"]:
        """Return the prefix and the patches `places`; where it can be, only they are projected."""
        if not isinstance(self.embed, Patchwise):
            return self.taken(self.embed(image), places, self.patches(image))
        tokens = self.embed.some(image, places)
        self._put(places, tokens.shape[1] - places.shape[1], self.patches(image))
        return tokens

    def taken(
        self, tokens: Float[Tensor, "b n c"], places: Int[Tensor, "b k"], patches: int
    ) -> Float[Tensor, "b t c"]:
        """Return the prefix and the patches `places` of all tokens, the last `patches` of them."""
        at = self._put(places, tokens.shape[1] - patches, patches)
        return tokens.gather(1, at[..., None].expand(-1, -1, tokens.shape[-1]))

    def restored(self, tokens: Float[Tensor, "b t c"]) -> Float[Tensor, "b n c"]:
        """Return tokens of the last image at their places, zeros where patches were left out."""
        at = self.kept.tokens
        if at is None:
            return tokens
        whole = tokens.new_zeros(tokens.shape[0], self.kept.every, tokens.shape[-1])
        return whole.scatter(1, at[..., None].expand_as(tokens), tokens)

    def _put(self, places: Tensor, prefix: int, patches: int) -> Tensor:
        first = torch.arange(prefix, device=places.device).expand(places.shape[0], -1)
        at = torch.cat([first, places + prefix], 1)
        self.kept.put(at, prefix + patches)
        return at


def drawn(batch: int, patches: int, keep: int, device: torch.device) -> Int[Tensor, "b k"]:
    """Return `keep` of the patches for each image by itself, every choice equally likely."""
    return torch.rand(batch, patches, device=device).argsort(1)[:, :keep]


def same_for_all(batch: int, patches: int, keep: int, device: torch.device) -> Int[Tensor, "b k"]:
    """Return one choice of patches for all images, which never changes: fewer are among more.

    So answers do not change from call to call, and a model that drops patches can be exported.
    """
    return torch.tensor(_order(patches)[:keep], device=device).expand(batch, -1)


def _order(patches: int) -> tuple[int, ...]:
    return _shuffled(patches)


@lru_cache(maxsize=64)
def _shuffled(patches: int) -> tuple[int, ...]:
    """Return the patches in a random order that no version changes, since
    trained models rely on it.
    """
    return tuple(np.random.RandomState(0).permutation(patches).tolist())


def install(model: nn.Module, around: Callable[[nn.Module], Dropping]) -> nn.Module:
    """Put a dropping embedding into a model, and let its tables of relative positions follow.

    Raises ConfigError where there is no embedding.
    """
    # Here and not where it is defined, since it imports the compiler, which takes seconds.
    torch.compiler.assume_constant_result(_order)
    (seam,) = seams(model, "embed")
    dropping = around(seam.module)
    seam.replace(dropping)
    for mixer in seams(model, "blocks.*.mixer"):
        bias = getattr(mixer.module, "bias", None)
        if isinstance(bias, BiasTable):
            mixer.module.bias = KeptBias(bias, dropping.kept)
    return model


def require_tokens(name: str, model: nn.Module, otherwise: str = "") -> None:
    """Raise ConfigError unless the blocks of a model take any number of tokens.

    `otherwise` says what else the method `name` takes.
    """
    blocks = getattr(model, "blocks", nn.ModuleList())
    convolve = any(isinstance(m, nn.Conv1d | nn.Conv2d) for m in blocks.modules())
    has_grid = hasattr(getattr(model, "embed", None), "grid")
    if convolve or not has_grid or not works(_Trial(), model):
        raise ConfigError(
            f"{name} needs a model whose blocks take any number of tokens, such as vit, deit or "
            f"cait{otherwise}; this one has the seams {', '.join(available(model))}"
        )


def choose(model: nn.Module, keep: float) -> nn.Module:
    """Set which share of the patches a model keeps in eval mode from now on; returns the model.

    Raises ConfigError for a share outside of (0, 1], and for a model whose patches all stay.

    Examples:
        >>> model = PSS().apply(vitrail.create("vit_ti16")).eval()
        >>> choose(model, 0.4).embed(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 79, 192])
    """
    check_share("keep", keep)
    found = [module for module in model.modules() if isinstance(module, Leaving)]
    if not found:
        raise ConfigError(
            "this model always keeps all patches: train it with methods=pss or "
            "methods=patch_dropout"
        )
    for module in found:
        module.test_keep = keep
    return model


def require_single(name: str, model: nn.Module) -> None:
    """Raise ConfigError where another method leaves out patches of a model, or adds tokens."""
    if adapted_by(model) == "vpt":
        raise ConfigError(
            f"{name} comes after vpt, whose prompts it would count as patches: take one of them"
        )
    if any(isinstance(module, Leaving) for module in model.modules()):
        raise ConfigError(
            f"{name} comes after another method that leaves patches out: take either patch_dropout "
            "or pss, once"
        )


def check_share(name: str, value: float) -> None:
    """Raise ConfigError unless a share of the patches is in (0, 1]."""
    if not 0 < value <= 1:
        raise ConfigError(f"{name} is {value}: give a share of the patches in (0, 1]")


class _Trial(Quiet):
    """Keeps half of the patches, to see whether a model bears it."""

    def check(self, model: nn.Module) -> None:
        """Do nothing."""

    def apply(self, model: nn.Module) -> nn.Module:
        return install(model, _Halved)


class _Halved(Dropping):
    def __init__(self, embed: nn.Module) -> None:
        super().__init__(embed, 0.5, 0.5)

    def forward(self, image: Tensor) -> Tensor:
        n = self.patches(image)
        return self.some(image, drawn(image.shape[0], n, max(1, n // 2), image.device))
