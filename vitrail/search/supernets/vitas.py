"""The super-transformer of ViTAS: one set of weights for all candidates.

Su et al., ECCV 2022, arXiv 2106.13700, as in the public code (private q and k per number of
heads, private stems). A candidate is a Config of `vitrail.models.vitas`, so its sizes stay
with their slots; in the released code an empty slot passes its ratios on to the next block,
which here is a matter of which Config is asked for. The released code also reads the last
position for every token, which `NAMES` makes true of its checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear
from vitrail.layers.patches import class_row
from vitrail.layers.residual import Block
from vitrail.models.names.vitas import TENSORS
from vitrail.models.vitas import HEADS, PATCHES, Config, Embed, ViTAS, init, scale


def _last_everywhere(table: Tensor) -> tuple[Tensor, Tensor]:
    return class_row(table[:, -1:].expand_as(table))


# The released super-transformer's tensors under the names of `Super`.
NAMES = [
    ("net.backbone_init_stem_Patch_init_0.{j}.", "stems.{j}."),
    ("stems.{j}.cls_token", "stems.{j}.token[+]"),
    ("stems.{j}.pos_embed", ("stems.{j}.token[+]", "stems.{j}.position"), _last_everywhere),
    ("net.backbone_Block_id_{i}.0.", "blocks.{i}."),
    (".attn.qk{j}.", ".mixer.qk.{j}."),
    *TENSORS,
]


class PrivateHeads(nn.Module):
    """One q and k for each of `choices` numbers of heads, one v and output for all."""

    def __init__(self, dim: int, attention: int, choices: int) -> None:
        super().__init__()
        self.qk = nn.ModuleList(Linear(dim, 2 * attention // 3) for _ in range(choices))
        self.v = Linear(dim, attention // 3)
        self.proj = Linear(attention // 3, dim)


class Super(nn.Module):
    """The shared weights of all candidates up to the sizes of `widest`.

    Each of `patches` has its own stem, each number of `heads` its own q and k. A candidate
    inherits, of every weight, the first ("left") or the last ("right") rows and columns.
    """

    def __init__(
        self,
        widest: Config,
        *,
        patches: tuple[int, ...] = PATCHES,
        heads: tuple[int, ...] = HEADS[:-1],
    ) -> None:
        super().__init__()
        c = self.config = widest
        self.patches, self.heads = patches, heads
        self.stems = nn.ModuleList(Embed(replace(c, patch=patch)) for patch in patches)
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(c.dim, PrivateHeads(c.dim, rows, len(heads)), Mlp(c.dim, hidden), norm=norm)
            for rows, hidden in zip(c.attention, c.hidden, strict=True)
        )
        self.norm, self.head = nn.LayerNorm(c.dim), Linear(c.dim, c.classes)
        init(self)

    def forward(
        self, image: Float[Tensor, "b channels h w"], config: Config, side: str
    ) -> Float[Tensor, "b classes"]:
        """Logits of a candidate with the weights that it inherits on one side.

        Stochastic depth is off, as in the authors' training of the shared weights.
        """
        with torch.device("meta"):
            candidate = ViTAS(replace(config, drop_path=0.0)).train(self.training)
        return functional_call(candidate, self.inherited(config, side), (image,))

    def inherited(self, config: Config, side: str) -> dict[str, Tensor]:
        """The state of the candidate `config`, views of the shared weights where they suffice.

        Raises ValueError for a candidate that is not of this space.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side is {side!r}: expected left or right")
        slots = config.filled
        known = {*(config.heads[i] for i in slots)} <= {*self.heads}
        if config.patch not in self.patches or not known:
            raise ValueError(
                f"patch is {config.patch} and heads are {config.heads}: this super-transformer "
                f"has patches {self.patches} and heads {self.heads}"
            )
        own, found = dict(self.named_parameters()), {}
        with torch.device("meta"):
            shapes = {name: p.shape for name, p in ViTAS(config).named_parameters()}
        for name, shape in shapes.items():
            kind, _, rest = name.partition(".")
            n, _, inside = rest.partition(".")
            if kind == "embed":
                shared = own[f"stems.{self.patches.index(config.patch)}.{rest}"]
            elif inside.startswith("mixer.qkv."):
                found[name] = self._qkv(config, slots[int(n)], inside[10:], shape, side)
                continue
            else:
                shared = own[f"blocks.{slots[int(n)]}.{inside}" if kind == "blocks" else name]
            found[name] = _cut(shared, shape, side)
        return found

    def _qkv(self, config: Config, slot: int, leaf: str, shape: Sequence[int], side: str) -> Tensor:
        """The fused projection: q and k are cut as one matrix, halved afterwards."""
        third, heads, inside = shape[0] // 3, config.heads[slot], f"blocks.{slot}.mixer"
        both = self.get_parameter(f"{inside}.qk.{self.heads.index(heads)}.{leaf}")
        q, k = _cut(both, (2 * third, *shape[1:]), side).chunk(2)
        v = _cut(self.get_parameter(f"{inside}.v.{leaf}"), (third, *shape[1:]), side)
        # All candidates share one scale, that of the fewest heads over the widest tokens.
        ratio = scale(self.config.dim, self.heads[0]) / scale(config.dim, heads)
        return torch.cat([q * ratio, k, v])


def _cut(weight: Tensor, shape: Sequence[int], side: str) -> Tensor:
    """The first or last entries of every axis."""
    for axis, (have, want) in enumerate(zip(weight.shape, shape, strict=True)):
        if want > have:
            raise ValueError(
                f"a candidate needs {want} of {have} channels: it must be no wider than the "
                "super-transformer"
            )
        weight = weight.narrow(axis, 0 if side == "left" else have - want, want)
    return weight
