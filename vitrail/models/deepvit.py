"""DeepViT: each head's attention map becomes a learned mixture of all heads' before it is used.

Zhou et al., "Towards Deeper Vision Transformer", 2021, arXiv 2103.11886. Maps of deep blocks
become alike; mixing them over the heads and norming them ("re-attention") keeps them apart.

The norm of the mixed maps is the authors' BatchNorm, per head over batch, queries and keys, or
a LayerNorm over the heads of each pair of query and key, as in lucidrains/vit-pytorch, which
needs no running statistics. Maps may then be negative and their rows do not sum to one:
`ReAttention.weights` gives the maps before the mixture, `ReAttention.maps` those that meet the
values. The authors' mixture has a bias, which BatchNorm takes away in training and which is
otherwise a part of its running mean: there it goes when a checkpoint is loaded.

Such ports also norm patches before and after they are projected, have no bias where queries, keys
and values are made, and an eps of 1e-5 in every LayerNorm: `patch_norm`, `qkv_bias`, `eps`.

DeepViT-S and -L re-attend in their last blocks only, have a convolutional stem, and norm half
the residual stream and double what is added to it; DeepViT-S alone multiplies its maps by
d**-0.5. The authors move no positions; ours are resampled bicubically, as timm's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.attention import Attention
from vitrail.layers.conv import affine
from vitrail.layers.ffn import Mlp
from vitrail.layers.init import trunc_normal_linear
from vitrail.layers.linear import frozen
from vitrail.layers.position import bicubic_grid
from vitrail.layers.residual import Block, rising
from vitrail.layers.tokens import FirstToken
from vitrail.models.names import deepvit as names
from vitrail.models.parts.deepvit_stem import Embed
from vitrail.models.trunk.backbone import Isotropic, Level, Small, Variant
from vitrail.models.trunk.heads import linear_head
from vitrail.models.trunk.positions import Table, patches


@dataclass(frozen=True)
class Config:
    """Sizes of a DeepViT. The last `reattention` blocks re-attend; `norm` of their maps is
    "batch", "shrunk" (batch, then times d**-0.5) or "layer". Branches read `adjust` times the
    residual stream and are divided by it. `inner` is the width of the stem's two convolutions,
    0 for plain patches; these may have norms around their projection, `patch_norm`. `eps` is that
    of the LayerNorms on tokens."""

    dim: int = 384
    depth: int = 16
    heads: int = 12
    hidden: int = 1152
    reattention: int = 16
    norm: str = "batch"
    adjust: float = 1.0
    patch: int = 16
    inner: int = 0
    patch_norm: bool = False
    qkv_bias: bool = True
    eps: float = 1e-6
    drop_path: float = 0.2
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000


_PLAIN = Config()
_S = Config(dim=396, hidden=1188, reattention=5, norm="shrunk", adjust=0.5, inner=64)
_L = Config(dim=420, depth=32, hidden=1260, reattention=12, adjust=0.5, inner=64)
_PAPER = "the authors' network takes {} G and has {} M parameters, where the paper says {} and {}"
# Multiply-adds of those without a published figure are counted in the authors' network, as are
# parameters of DeepViT-L: their README repeats those of the plain network of its depth.
VARIANTS = {
    name: Variant(config, params_m=params_m, flops_g=flops_g, top1=top1, note=note)
    for name, config, params_m, flops_g, top1, note in [
        ("deepvit_16b", _PLAIN, 24.5, 5.27, 79.10, ""),
        ("deepvit_24b", replace(_PLAIN, depth=24, reattention=24), 36.3, 7.88, 79.99, ""),
        ("deepvit_32b", replace(_PLAIN, depth=32, reattention=32), 48.1, 10.49, 80.90, ""),
        ("deepvit_s", _S, 27.0, 6.2, 82.3, _PAPER.format(6.36, 27.3, 6.2, 27)),
        ("deepvit_l", _L, 58.88, 12.5, 83.1, _PAPER.format(13.15, 58.9, 12.5, 55)),
        ("deepvit_l_384", replace(_L, image=(384, 384)), 59.04, 44.8, 84.25, ""),
    ]
}

SPACE = Small(
    Config(dim=96, heads=4, hidden=288, drop_path=0.0),
    {
        ("depth", "reattention"): ((4, 4), (8, 4), (8, 8)),
        ("dim", "heads", "hidden"): ((96, 4, 288), (144, 6, 432)),
        ("patch", "inner"): ((4, 0), (4, 32), (7, 0), (8, 32), (16, 32)),
    },
)


NAMES = names.TABLES
POSITIONS = (Table("embed.position", patches, bicubic_grid),)


class Mix(nn.Module):
    """Maps mixed over the heads, (n, m) to (n, m), and what is then to be added to each, (n,):
    it comes by itself because adding it to what the maps gather is cheaper."""

    def __init__(self, theta: Float[Tensor, "n n"], shift: Float[Tensor, "n"]) -> None:
        super().__init__()
        self.theta, self.shift = frozen(theta), frozen(shift)

    def forward(self, maps: Float[Tensor, "n m"]) -> tuple[Tensor, Tensor]:
        return self.theta @ maps, self.shift


class BatchMix(nn.Module):
    """Mixture of maps and BatchNorm with statistics of each mixed map, times `scale`."""

    def __init__(self, heads: int, scale: float = 1.0) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.empty(heads, heads).uniform_(-(heads**-0.5), heads**-0.5))
        self.norm = nn.BatchNorm1d(heads)
        self.scale = scale

    def forward(self, maps: Float[Tensor, "n m"]) -> tuple[Tensor, Tensor]:
        if not self.training:
            theta, shift = self._folded()
            return theta @ maps, shift
        mixed = self.norm((self.theta @ maps)[None])[0]
        return mixed if self.scale == 1.0 else mixed * self.scale, self.theta.new_zeros(len(maps))

    def deployed(self) -> Mix:
        """Return one matrix and one constant a head that compute the same in eval mode."""
        return Mix(*self._folded())

    def _folded(self) -> tuple[Tensor, Tensor]:
        gain, shift = affine(self.norm)
        return self.theta * (gain * self.scale)[:, None], shift * self.scale


class LayerMix(nn.Module):
    """Mixture of maps and LayerNorm over the heads of every pair of query and key; the mean
    over heads is a mixture too: taken from the matrix, it costs nothing."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.randn(heads, heads))
        self.norm = nn.LayerNorm(heads)

    def forward(self, maps: Float[Tensor, "n m"]) -> tuple[Tensor, Tensor]:
        centred = (self.theta - self.theta.mean(0)) @ maps
        normed = centred * torch.rsqrt(centred.square().mean(0) + self.norm.eps)
        return normed * self.norm.weight[:, None], self.norm.bias


class ReAttention(Attention):
    """Attention whose maps `mix` changes, as `Mix` does: (B, N, C) to the same; `weights` gives
    the maps before that, whose rows sum to one."""

    def __init__(self, dim: int, heads: int, mix: nn.Module, *, qkv_bias: bool = True) -> None:
        super().__init__(dim, heads, qkv_bias=qkv_bias)
        self.mix = mix

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        maps, shift, v = self._mixed(x)
        out = maps @ v + shift * v.sum(2, keepdim=True)
        return self.proj(out.permute(1, 2, 0, 3).reshape(x.shape))

    def maps(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads n n"]:
        """Return what meets the values: mixed and normed, so that rows do not sum to one."""
        maps, shift, _ = self._mixed(x)
        return (maps + shift).transpose(0, 1)

    def _mixed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Heads come first, so that mixing them is one matrix product over whole batches.
        q, k, v = (part.transpose(0, 1) for part in self._heads(x))
        maps = ((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1)
        mixed, shift = self.mix(maps.flatten(1))
        return mixed.view(maps.shape), shift[:, None, None, None], v


class AdjustedBlock(Block):
    """x + mixer(norm1(a x)) / a, then x + ffn(norm2(a x)) / a: (B, N, C) to the same; `gain`
    is 1 / a. To a LayerNorm, a x is x with its eps divided by a**2: the norms come so."""

    gain = 1.0

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        x = torch.add(x, self.drop_path(self.mixer(self.norm1(x))), alpha=self.gain)
        return torch.add(x, self.drop_path(self.ffn(self.norm2(x))), alpha=self.gain)


class DeepViT(Isotropic):
    """Patches and class token, blocks of which the last re-attend, class token, linear head."""

    undecayed = ("embed.position", "embed.token")

    def __init__(self, config: Config) -> None:
        c = config
        shrunk = partial(BatchMix, scale=(c.dim / c.heads) ** -0.5)
        mixes = {"batch": BatchMix, "shrunk": shrunk, "layer": LayerMix}
        if c.norm not in mixes:
            raise ValueError(f"norm is {c.norm!r}: expected {', '.join(mixes)}")
        if not 0 <= c.reattention <= c.depth:
            raise ValueError(f"reattention is {c.reattention}: expected 0 to {c.depth}, the depth")
        norm = partial(nn.LayerNorm, eps=c.eps / c.adjust**2)
        blocks = []
        for i, rate in enumerate(rising(c.drop_path, c.depth)):
            mixer = Attention(c.dim, c.heads, qkv_bias=c.qkv_bias)
            if i >= c.depth - c.reattention:
                mix = mixes[c.norm](c.heads)
                mixer = ReAttention(c.dim, c.heads, mix, qkv_bias=c.qkv_bias)
            block = AdjustedBlock(c.dim, mixer, Mlp(c.dim, c.hidden), norm=norm, drop_path=rate)
            block.gain = 1 / c.adjust
            blocks.append(block)
        super().__init__(
            config,
            embed=Embed(config),
            blocks=blocks,
            norm=nn.LayerNorm(c.dim, eps=c.eps),
            pool=FirstToken(),
            head=linear_head(c.dim, c.classes),
            levels=[Level(c.patch, c.dim)],
        )
        trunc_normal_linear(self)


MODEL = DeepViT
