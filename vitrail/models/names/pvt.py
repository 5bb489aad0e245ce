"""The names that PVT's authors, and transformers, give to its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.layers.patches import class_row


def _authors(config: Any) -> list:
    last = len(config.dims)
    return [
        ("cls_token", f"stages.{last - 1}.token[+]"),
        (
            f"pos_embed{last}",
            (f"stages.{last - 1}.token[+2]", f"stages.{last - 1}.position"),
            class_row,
        ),
        ("pos_embed{i}", "stages.{i-1}.position"),
        ("patch_embed{i}.", "stages.{i-1}.down."),
        ("block{i}.", "stages.{i-1}.blocks."),
        (".attn.sr.", ".mixer.reduce.conv."),
        (".attn.norm.", ".mixer.reduce.norm."),
        (".attn.", ".mixer."),
        (".mlp.", ".ffn."),
    ]


def _transformers(config: Any) -> list:
    return [
        ("pvt.encoder.", ""),
        ("patch_embeddings.{i}.position_embeddings", "pos_embed{i+1}"),
        ("patch_embeddings.{i}.cls_token", "cls_token"),
        ("patch_embeddings.{i}.projection.", "patch_embed{i+1}.proj."),
        ("patch_embeddings.{i}.layer_norm.", "patch_embed{i+1}.norm."),
        ("block.{i}.{j}.", "block{i+1}.{j}."),
        ("layer_norm.", "norm."),
        ("classifier.", "head."),
        (".layer_norm_1.", ".norm1."),
        (".layer_norm_2.", ".norm2."),
        (".attention.self.query.", ".attn.q."),
        *[
            (f".attention.self.{name}.{leaf}", f".attn.kv.{leaf}[{part}/2]")
            for part, name in enumerate(("key", "value"))
            for leaf in ("weight", "bias")
        ],
        (".attention.self.sequence_reduction.", ".attn.sr."),
        (".attention.self.layer_norm.", ".attn.norm."),
        (".attention.output.dense.", ".attn.proj."),
        (".mlp.dense1.", ".mlp.fc1."),
        (".mlp.dense2.", ".mlp.fc2."),
        *_authors(config),
    ]


TABLES: dict[str, Callable[[Any], list]] = {
    "whai362/PVT": _authors,
    "transformers": _transformers,
}


def widths(config: Any) -> list[tuple[str, str]]:
    """Return which axes of a PVT's tensors share a width; each stage has its own embedding."""
    rows = []
    for stage in range(len(config.dims)):
        at, own = f"stages.{stage}.", f"dims.{stage}"
        before = f"dims.{stage - 1}" if stage else "*"
        block, inner, hidden = at + "blocks.{i}.", f"inner.{stage}.{{i}}", f"hidden.{stage}.{{i}}"
        rows += [
            (at + "position", f"*, *, {own}"),
            (at + "token", f"*, *, {own}"),
            (at + "down.proj.{leaf}", f"{own}, {before}"),
            (at + "down.norm.{leaf}", own),
            (block + "norm{n}.{leaf}", own),
            (block + "mixer.q.{leaf}", f"q:{inner}, {own}"),
            (block + "mixer.kv.{leaf}", f"{inner} + {inner}, {own}"),
            (block + "mixer.proj.weight", f"{own}, {inner}"),
            (block + "mixer.proj.bias", own),
            (block + "mixer.reduce.conv.{leaf}", f"{own}, {own}"),
            (block + "mixer.reduce.norm.{leaf}", own),
            (block + "ffn.fc1.{leaf}", f"{hidden}, {own}"),
            (block + "ffn.fc2.weight", f"{own}, {hidden}"),
            (block + "ffn.fc2.bias", own),
        ]
    last = f"dims.{len(config.dims) - 1}"
    return [*rows, ("norm.{leaf}", last), ("head.weight", f"*, {last}"), ("head.bias", "*")]
