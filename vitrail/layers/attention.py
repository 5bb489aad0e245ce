"""Multi-head self-attention and the one door to the fused kernel.

Vaswani et al., NeurIPS 2017, arXiv 1706.03762.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def attend(
    q: Float[Tensor, "b n t d"],
    k: Float[Tensor, "b n s d"],
    v: Float[Tensor, "b n s e"],
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b n t e"]:
    """softmax(scale * q k' + bias) v for every head.

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
    """The weights that `attend` applies to v, each row summing to 1."""
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (logits if bias is None else logits + bias).softmax(-1)


class Attention(nn.Module):
    """Global self-attention over (B, *S, C), heads of C / heads channels.

    `qkv` is one linear layer, packed [q | k | v], each [head][channel]. `dropout` acts on
    the attention weights in training.
    """

    def __init__(
        self, dim: int, heads: int, *, qkv_bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} does not divide into {heads} heads: choose a divisor")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b *s c"]:
        q, k, v = self._heads(x)
        out = attend(q, k, v, dropout=self.dropout if self.training else 0.0)
        return self.proj(out.transpose(1, 2).reshape(x.shape))

    def weights(self, x: Float[Tensor, "b *s c"]) -> Float[Tensor, "b heads n n"]:
        """Who looks at whom: attention of every head, rows are queries."""
        q, k, _ = self._heads(x)
        return attention_weights(q, k)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, c = x.shape[0], x.shape[-1]
        qkv = self.qkv(x).view(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return torch.unbind(qkv)  # pyright: ignore[reportReturnType]
