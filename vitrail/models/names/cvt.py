"""The names that CvT's authors, and transformers, give to its parameters."""

from __future__ import annotations

from typing import Any

_LONG = {"q": "query", "k": "key", "v": "value"}

TABLES = {
    "microsoft/CvT": [
        ("stage0.patch_embed.", "stem.patch_embed."),
        ("stage{i}.", "stages.{i}."),
        (".patch_embed.proj.", ".down.0."),
        (".patch_embed.norm.", ".down.1."),
        (".cls_token", ".token"),
        *[(f".conv_proj_{n}.", f".{n}_map.") for n in "qkv"],
        (".bn.", ".norm."),
        *[(f".proj_{n}.", f".{n}.") for n in "qkv"],
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
    ],
    "transformers": [
        ("cvt.encoder.", ""),
        ("stages.0.embedding.", "stem.embedding."),
        (".layers.", ".blocks."),
        (".embedding.convolution_embeddings.projection.", ".down.0."),
        (".embedding.convolution_embeddings.normalization.", ".down.1."),
        (".cls_token", ".token"),
        (".attention.output.dense.", ".mixer.proj."),
        (".attention.attention.", ".mixer."),
        *[(f".convolution_projection_{_LONG[n]}.", f".{n}_map.") for n in "qkv"],
        (".convolution_projection.convolution.", ".conv."),
        (".convolution_projection.normalization.", ".norm."),
        *[(f".projection_{_LONG[n]}.", f".{n}.") for n in "qkv"],
        (".intermediate.dense.", ".ffn.fc1."),
        (".output.dense.", ".ffn.fc2."),
        *[(f".layernorm_{name}.", f".norm{i}.") for i, name in ((1, "before"), (2, "after"))],
        ("layernorm.", "norm."),
        ("classifier.", "head."),
    ],
}


def widths(config: Any) -> list[tuple[str, str]]:
    """Return which axes of a CvT's tensors share a width.

    Embeddings are not cut: scores are scaled by their width.
    """
    block = "stages.{s}.blocks.{i}."
    return [
        *[(f"{block}mixer.{n}.{{leaf}}", "inner.{s}.{i}, *") for n in "qkv"],
        (block + "mixer.proj.weight", "*, inner.{s}.{i}"),
        (block + "ffn.fc1.{leaf}", "hidden.{s}.{i}, *"),
        (block + "ffn.fc2.weight", "*, hidden.{s}.{i}"),
        (block + "mixer.proj.bias", "*"),
        (block + "ffn.fc2.bias", "*"),
        (block + "norm{n}.{leaf}", "*"),
        (block + "mixer.{n}_map.{part}.{leaf}", "*"),
        ("stem.down.{n}.{leaf}", "*"),
        ("stages.{s}.down.{n}.{leaf}", "*"),
        ("stages.{s}.token", "*"),
        ("norm.{leaf}", "*"),
        ("head.{leaf}", "*"),
    ]
