"""Multi-head self-attention and the one door to the fused kernel.

Vaswani et al., NeurIPS 2017, arXiv 1706.03762.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.layers.checks import head_width
from vitrail.layers.linear import Linear


def attend(
    q: Float[Tensor, "b n t d"],
    k: Float[Tensor, "b n s d"],
    v: Float[Tensor, "b n s e"],
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b n t e"]:
    """Return softmax(scale * q k' + bias) v for every head.

    `bias` is added to the logits and broadcasts to (b, n, t, s); `scale` is d**-0.5 unless
    given; `dropout` acts on the attention weights. Inputs must be 4-D: with more axes torch
    leaves its fused kernel and the ONNX exporter fails.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)


def attention_weights(
    q: Float[Tensor, "b n t d"],
    k: Float[Tensor, "b n s d"],
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b n t s"]:
    """Return the weights that `attend` applies to v, each row summing to 1."""
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (logits if bias is None else logits + bias).softmax(-1)


class Attention(nn.Module):
    """Global self-attention over (B, *S, C), heads of inner / heads channels.

    `qkv` is one linear layer, packed `[q | k | v]`, each `[head][channel]`. `inner` is C and
    `scale` (inner / heads)**-0.5 unless given; searched networks choose their own. `dropout`
    acts on the attention weights in training.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        inner: int | None = None,
        scale: float | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        head_width(inner, heads)
        self.heads, self.scale = heads, scale
        self.qkv = Linear(dim, 3 * inner, bias=qkv_bias)
        self.proj = Linear(inner, dim)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        q, k, v = self._heads(x)
        dropout = self.dropout if self.training else 0.0
        out = attend(q, k, v, scale=self.scale, dropout=dropout)
        return self.proj(out.transpose(1, 2).reshape(*x.shape[:-1], -1))

    def weights(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b heads n n"]:
        """Return who looks at whom: attention of every head, rows are queries."""
        q, k, _ = self._heads(x)
        return attention_weights(q, k, scale=self.scale)

    def first(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads 1 n"]:
        """Return the first token's row of `weights`, in time linear in n:
        what a class token reads.
        """
        inner = self.proj.in_features
        weight, bias = self.qkv.weight, self.qkv.bias
        biases = (None, None) if bias is None else (bias[:inner], bias[inner : 2 * inner])
        q = F.linear(x[:, :1], weight[:inner], biases[0])
        k = F.linear(x, weight[inner : 2 * inner], biases[1])
        q, k = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k))
        return attention_weights(q, k, scale=self.scale)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        width = self.proj.in_features // self.heads
        qkv = self.qkv(x).view(x.shape[0], -1, 3, self.heads, width).permute(2, 0, 3, 1, 4)
        return torch.unbind(qkv)  # pyright: ignore[reportReturnType]


class ClassAttention(nn.Module):
    """The first token asks all tokens: (B, N, C) to its new value (B, 1, C).

    CaiT, Touvron et al., ICCV 2021, arXiv 2103.17239. Linear in N. `kv` is one linear layer,
    packed `[k | v]`, each `[head][channel]`. `inner`, the channels of all heads, is C unless given.
    """

    def __init__(
        self, dim: int, heads: int, *, inner: int | None = None, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        self.heads, self.width = heads, head_width(inner, heads)
        self.q = Linear(dim, inner, bias=qkv_bias)
        self.kv = Linear(dim, 2 * inner, bias=qkv_bias)
        self.proj = Linear(inner, dim)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b 1 c"]:
        q, k, v = self._heads(x)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))

    def weights(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b heads 1 n"]:
        """Return what the first token looks at."""
        q, k, _ = self._heads(x)
        return attention_weights(q, k)

    def absorb(self, scale: Float[Tensor, "c"]) -> None:
        """Multiply the output's channels, for good."""
        self.proj = self.proj.scaled(scale)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        shape = (self.heads, self.width)
        q = self.q(x[:, :1]).view(b, 1, *shape).transpose(1, 2)
        k, v = self.kv(x).view(b, n, 2, *shape).permute(2, 0, 3, 1, 4)
        return q, k, v
