"""The names that the authors of attention as convolution give to their parameters."""

from __future__ import annotations

from typing import Any


def _names(config: Any) -> list:
    c, ours = config, ".mixer.position."
    return [
        (
            "features_upscale.weight",
            "embed.proj.weight",
            lambda v: v.unflatten(1, (c.patch, c.patch, -1)).permute(0, 3, 1, 2),
        ),
        ("features_upscale.", "embed.proj."),
        ("encoder.layer.", "blocks."),
        (".attention.self.attention_", ours),
        (".attention.self.row_embeddings.weight", ours + "columns"),  # of the second axis
        (".attention.self.col_embeddings.weight", ours + "rows"),
        (".attention.self.head_keys_row.weight", ours + "column_keys"),
        (".attention.self.head_keys_col.weight", ours + "row_keys"),
        (".attention.self.", ".mixer."),
        (".attention.output.dense.", ".mixer.proj."),
        (".attention.output.LayerNorm.", ".norm1."),
        (".intermediate.dense.", ".ffn.fc1."),
        (".output.dense.", ".ffn.fc2."),
        (".output.LayerNorm.", ".norm2."),
        ("classifier.", "head."),
    ]


TABLES = {"epfml/attention-cnn": _names}
