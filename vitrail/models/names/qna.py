"""Name tables of QnA-ViT: its authors' Flax names, joined by slashes, in two layouts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor


def _names(config: Any, *, flax: bool) -> list:
    """Return rows of the authors' names: with kernels as Flax has them, (in, out) and (h, w, in,
    out), or as PyTorch has them, LayerNorm's scale then being its `weight`.
    """
    blocks = [
        row
        for i, before in enumerate(config.lsa)
        for row in (
            (f"LSAStage_{i}/MSA_Block_{{n}}/", f"stages.{i}.blocks.{{n-1}}."),
            (f"QnAStage_{i}/QnA_Block_{{n}}/", f"stages.{i}.blocks.{{n{before - 1:+}}}."),
        )
    ]
    layout = [(".kernel", ".weight", _kernel)] if flax else [(".kernel", ".weight")]
    return [
        # Training states hold more than weights.
        ("opt_state/", None),
        ("step", None),
        ("params/", ""),
        ("StemBlock_0/conv_1x1/", "stem.proj."),
        ("QnAStage_{i}/QnA_Block_{n}_stride_2/", "stages.{i+1}.down."),
        *blocks,
        ("ClassificationHead_0/LayerNorm_0/", "norm."),
        ("ClassificationHead_0/head_logits/", "head."),
        ("ClassificationHead_0/FusedKQnA_0/", "pool.mixer.FusedKQnA_0/"),
        (".AvgPool1x1Conv_0/Conv_0/", ".skip."),
        (".Conv_0/", ".skip."),
        (".LayerNorm_0/", ".norm1."),
        (".LayerNorm_1/", ".norm2."),
        (".MultiHeadSelfAttention_0/RelativePositionalEmbedding_0/rpe_bias", ".mixer.bias.table"),
        (".MultiHeadSelfAttention_0/to_qkv/", ".mixer.qkv."),
        (".MultiHeadSelfAttention_0/to_out/", ".mixer.proj."),
        (".FusedKQnA_0/query", ".mixer.query"),
        (".FusedKQnA_0/Wk", ".mixer.key", lambda v: v.mT),
        (".FusedKQnA_0/rpe_bias", ".mixer.position"),
        (".FusedKQnA_0/attn_scale_weights", ".mixer.share", lambda v: v[0, 0]),
        (".FusedKQnA_0/to_v/", ".mixer.value."),
        (".FusedKQnA_0/to_out/", ".mixer.proj."),
        (".MlpBlock_0/Dense_0/", ".ffn.fc1."),
        (".MlpBlock_0/Dense_1/", ".ffn.fc2."),
        ("pool.mixer.mixer.", "pool."),
        *layout,
        (".scale/weight", ".weight"),
        (".scale", ".weight"),
    ]


def _kernel(value: Tensor) -> Tensor:
    """Turn Flax (in, out) into torch (out, in), and (h, w, in, out) into (out, in, h, w)."""
    return value.movedim((-1, -2), (0, 1))


TABLES: dict[str, Callable[[Any], list]] = {
    "moabarar/qna": partial(_names, flax=True),
    "PyTorch layout": partial(_names, flax=False),
}
