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
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.layers.ffn import Mlp
from vitrail.layers.linear import Linear
from vitrail.layers.patches import class_row
from vitrail.layers.residual import Block
from vitrail.models.names.vitas import TENSORS
from vitrail.models.vitas import HEADS, PATCHES, Config, Embed, init, scale
from vitrail.search.supernets.indices import Rule, taken
from vitrail.search.supernets.supernet import Supernet


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


class Super(Supernet):
    """The shared weights of all candidates up to the sizes of `widest`.

    Each of `patches` has its own stem, each number of `heads` its own q and k. A candidate
    inherits, of every weight, the rows and columns that a rule says: Prefix ("left") and Suffix
    ("right") in the released code, Circular in the paper's second version.
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

    def parts(self, config: Config) -> list[Config]:
        """Return a Config for each filled slot, with an MLP of one channel and heads of one: how
        wide they are `shell` and the tensors say."""
        return [
            replace(config, heads=(heads,), attention=(3 * heads,), hidden=(1,))
            for heads in (config.heads[i] for i in config.filled)
        ]

    def shell(self, config: Config) -> nn.Module:
        """Return the modules of a candidate; attention reads its width from one of them."""
        model: Any = super().shell(config)
        for block, slot in zip(model.blocks, config.filled, strict=True):
            block.mixer.proj.in_features = config.attention[slot] // 3
        return model

    def filling(self, shell: nn.Module, config: Config, rule: Rule) -> dict[str, Tensor]:
        """Return the state of a candidate, views of the shared weights where they suffice.

        Raises ValueError for a candidate that is not of this space.
        """
        slots = config.filled
        known = {*(config.heads[i] for i in slots)} <= {*self.heads}
        if config.patch not in self.patches or not known:
            raise ValueError(
                f"patch is {config.patch} and heads are {config.heads}: this super-transformer "
                f"has patches {self.patches} and heads {self.heads}"
            )
        own, found = dict(self.named_parameters()), {}
        for name, meta in shell.named_parameters(remove_duplicate=False):
            kind, _, rest = name.partition(".")
            n, _, inside = rest.partition(".")
            shape: Sequence[int] = meta.shape
            if kind == "blocks":
                shape = _widened(inside, config, slots[int(n)]) or shape
            if kind == "embed":
                shared = own[f"stems.{self.patches.index(config.patch)}.{rest}"]
            elif inside.startswith("mixer.qkv."):
                found[name] = self._qkv(config, slots[int(n)], inside[10:], shape, rule)
                continue
            else:
                shared = own[f"blocks.{slots[int(n)]}.{inside}" if kind == "blocks" else name]
            found[name] = taken(shared, shape, rule)
        return found

    def _qkv(
        self, config: Config, slot: int, leaf: str, shape: Sequence[int], rule: Rule
    ) -> Tensor:
        """Cut the fused projection: q and k as one matrix, halved afterwards."""
        third, heads, inside = shape[0] // 3, config.heads[slot], f"blocks.{slot}.mixer"
        both = self.get_parameter(f"{inside}.qk.{self.heads.index(heads)}.{leaf}")
        q, k = taken(both, (2 * third, *shape[1:]), rule).chunk(2)
        v = taken(self.get_parameter(f"{inside}.v.{leaf}"), (third, *shape[1:]), rule)
        # All candidates share one scale, that of the fewest heads over the widest tokens.
        ratio = scale(self.config.dim, self.heads[0]) / scale(config.dim, heads)
        return torch.cat([q * ratio, k, v])


def _widened(name: str, config: Config, slot: int) -> tuple[int, ...] | None:
    """Return the shape of a block's tensor that depends on the width of its attention or MLP, else
    None."""
    dim, hidden, rows = config.dim, config.hidden[slot], config.attention[slot]
    return {
        "mixer.qkv.weight": (rows, dim), "mixer.qkv.bias": (rows,),
        "mixer.proj.weight": (dim, rows // 3),
        "ffn.fc1.weight": (hidden, dim), "ffn.fc1.bias": (hidden,),
        "ffn.fc2.weight": (dim, hidden),
    }.get(name)  # fmt: skip
