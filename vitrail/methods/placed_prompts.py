"""VPT's other places for prompts, which its ablation compares with tokens among tokens.

Jia et al., "Visual Prompt Tuning", ECCV 2022, arXiv 2203.12119, section 4.2 and its code. Prompts
are "added" to the patches' tokens, one for each place, or "one" for all; or they are "pixels" that
pass the patch embedding as a patch does and stand before the patches; a "border" of the image; or
"channels" below those of the image, for which the patch embedding grows and is trained.

The border begins as noise of deviation 1, as normalised pixels have, and the image shrinks into it,
where the authors enlarge the input. Whatever else begins at random is uniform as their prompts are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.layers.patches import PatchTokens
from vitrail.methods.adapting import frozen, require_alone
from vitrail.methods.method import Quiet, available, works
from vitrail.methods.vpt import MOST, prefix_of

Where = Literal["added", "one", "pixels", "border", "channels"]


@dataclass(frozen=True)
class PlacedPrompts(Quiet):
    """Trains prompts that are not tokens of their own, and the head.

    `placed` says where they are. `prompts` counts patches of "pixels", the pixels of a "border" on
    each side, or "channels"; the others have as many as there are patches, or one. With `deep` they
    are added before every block and not before the first alone.

    vitrail train --set pretrained=vit.npz --set methods=placed_prompts ...
    """

    placed: Where = "added"
    prompts: int = 2
    deep: bool = False

    def __post_init__(self) -> None:
        if self.placed not in get_args(Where):
            raise ConfigError(
                f"placed {self.placed!r} is unknown: give one of {', '.join(get_args(Where))}; "
                "tokens of their own are those of vpt"
            )
        if not 1 <= self.prompts <= MOST:
            raise ConfigError(f"prompts is {self.prompts}: give a number from 1 to {MOST:,}")
        if self.deep and self.placed not in ("added", "one"):
            raise ConfigError(
                f"deep is set and placed is {self.placed!r}, which is at the input alone: leave "
                "deep out, or set placed=added"
            )

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError unless the model embeds patches and the image has room."""
        require_alone("placed_prompts", model)
        whole: Any = model
        embed = getattr(whole, "embed", None)
        cut = isinstance(embed, PatchTokens) and isinstance(embed.proj, nn.Conv2d)
        if self.placed == "border" and 2 * self.prompts >= min(whole.config.image):
            h, w = whole.config.image
            raise ConfigError(
                f"prompts is {self.prompts}: a border of so many pixels on each side leaves "
                f"nothing of an image of {h}x{w}"
            )
        if not cut or not works(self, model):
            raise ConfigError(
                f"placed_prompts has no place for {self.placed} in this model: it needs an "
                "embedding of patches by one convolution, as vit and deit have it; this one has "
                "the seams "
                f"{', '.join(available(model))}"
            )

    def apply(self, model: nn.Module) -> nn.Module:
        """Freeze the backbone and put the prompts in; returns the model."""
        frozen("placed_prompts", model)
        whole: Any = model
        prefix, embed = prefix_of(whole), whole.embed
        if self.placed == "channels":
            embed.proj = Below(embed.proj, whole.config.image, self.prompts)
        elif self.placed == "border":
            whole.embed = Within(embed, whole.config, self.prompts)
        elif self.placed == "pixels":
            whole.embed = Behind(embed, prefix, self.prompts)
        else:
            places = 1 if self.placed == "one" else _count(whole)
            whole.embed = Added(embed, prefix, places, whole)
            if self.deep:
                for j, block in enumerate(list(whole.blocks)[1:], 1):
                    whole.blocks[j] = Added(block, prefix, places, whole, before=True)
        return model


class _Embedding(nn.Module):
    """An embedding with prompts: what asks it for its grid gets that of the one inside."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def grid(self, h: int, w: int) -> tuple[int, int]:
        """Return the patches down and across of an image of h x w pixels."""
        return self.inner.grid(h, w)


class Added(_Embedding):
    """Prompts that are added to the tokens behind the prefix: behind a module, or `before` it."""

    def __init__(
        self, inner: nn.Module, prefix: int, places: int, model: Any, *, before: bool = False
    ) -> None:
        super().__init__(inner)
        like, width = next(inner.parameters()), model.levels[0].channels
        bound = (6 / (model.config.channels * model.levels[0].stride ** 2 + width)) ** 0.5
        self.prompts = nn.Parameter(like.new_empty(1, places, width).uniform_(-bound, bound))
        self.prefix, self.before = prefix, before

    def forward(self, x: Tensor) -> Float[Tensor, "b n c"]:
        return self.inner(self._added(x)) if self.before else self._added(self.inner(x))

    def _added(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        return torch.cat([x[:, : self.prefix], x[:, self.prefix :] + self.prompts], 1)


class Behind(_Embedding):
    """Patches of learned pixels, embedded as patches are, behind the prefix; they have no place."""

    def __init__(self, inner: Any, prefix: int, count: int) -> None:
        super().__init__(inner)
        weight = inner.proj.weight
        _, channels, down, across = weight.shape
        bound = (6 / (channels * down * across + weight.shape[0])) ** 0.5
        pixels = weight.new_empty(1, channels, down, across * count)
        self.prompts = nn.Parameter(pixels.uniform_(-bound, bound))
        self.prefix = prefix

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        x = self.inner(image)
        more = self.inner.proj(self.prompts).flatten(2).mT.expand(x.shape[0], -1, -1)
        return torch.cat([x[:, : self.prefix], more, x[:, self.prefix :]], 1)


class Within(_Embedding):
    """A learned border of so many pixels, into which the image shrinks."""

    def __init__(self, inner: Any, config: Any, pixels: int) -> None:
        super().__init__(inner)
        (h, w), like = config.image, next(inner.parameters())
        sides = {"top": (pixels, w), "left": (h - 2 * pixels, pixels)}
        sides |= {"bottom": sides["top"], "right": sides["left"]}
        self.pixels = pixels
        self.prompts = nn.ParameterDict(
            {name: like.new_empty(1, config.channels, *size) for name, size in sides.items()}
        )
        for side in self.prompts.values():
            nn.init.normal_(side)

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n c"]:
        h, w = (side - 2 * self.pixels for side in image.shape[-2:])
        x = F.interpolate(image, (h, w), mode="bilinear", antialias=True)
        around = {n: side.expand(x.shape[0], -1, -1, -1) for n, side in self.prompts.items()}
        x = torch.cat([around["left"], x, around["right"]], 3)
        return self.inner(torch.cat([around["top"], x, around["bottom"]], 2))


class Below(nn.Module):
    """A patch embedding of more channels, which are learned: an image to its map (B, C, h, w)."""

    def __init__(self, proj: nn.Conv2d, image: tuple[int, int], count: int) -> None:
        super().__init__()
        weight = proj.weight
        self.proj = proj.requires_grad_(True)
        size = (proj.kernel_size[0], proj.kernel_size[1])
        self.more = nn.Conv2d(
            count, proj.out_channels, size, size, bias=False,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        bound = (6 / (size[0] * size[1] + proj.out_channels)) ** 0.5
        self.prompts = nn.Parameter(weight.new_empty(1, count, *image).uniform_(-bound, bound))

    def forward(self, image: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b c h2 w2"]:
        return self.proj(image) + self.more(self.prompts)


def _count(model: Any) -> int:
    """Return how many patches an image of the model's size has."""
    down, across = model.embed.grid(*model.config.image)
    return down * across
