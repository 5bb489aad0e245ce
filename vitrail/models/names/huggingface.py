"""Rows that the tables of several families share: a block of an encoder in transformers."""

from __future__ import annotations


def block(attention: str) -> list:
    """Return the rows of a block whose projections are in `.attention.<attention>.`.

    The second form of each name is that of transformers 5 and later.
    """
    return [
        *[
            (f".attention.{old}.{leaf}", f".mixer.qkv.{leaf}[{part}/3]")
            for part, name in enumerate(("query", "key", "value"))
            for old in (f"{attention}.{name}", f"{name[0]}_proj")
            for leaf in ("weight", "bias")
        ],
        (".attention.output.dense.", ".mixer.proj."),
        (".attention.o_proj.", ".mixer.proj."),
        (".intermediate.dense.", ".ffn.fc1."),
        (".output.dense.", ".ffn.fc2."),
        (".mlp.", ".ffn."),
        (".layernorm_before.", ".norm1."),
        (".layernorm_after.", ".norm2."),
        ("layernorm.", "norm."),
    ]
