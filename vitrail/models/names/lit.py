"""The names that big_vision gives to two towers: those of its ViT, below img/ and below txt/."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vitrail.models.names import vit

Rows = list[tuple[Any, ...]]


def _below(rows: Rows, prefix: str) -> Rows:
    """Return the rows of a table for names that have a prefix, which they keep."""

    def put(name: Any) -> Any:
        if isinstance(name, tuple):
            return tuple(map(put, name))
        return name if name is None else f"{prefix}{name}"

    return [
        row if row[0].startswith(".") else (f"{prefix}{row[0]}", put(row[1]), *row[2:])
        for row in rows
    ]


def _big_vision(config: Any) -> Rows:
    read = vit.TABLES["npz"]
    assert callable(read)
    text = SimpleNamespace(depth=config.text.depth, pool="mean")
    return [
        ("params/", ""),
        ("txt/Embed_0/embedding", "txt/embed.weight"),
        # Very old files have two tables of positions, whose sum counts.
        ("txt/pos_embedding", "txt/position[+]"),
        ("txt/Encoder_0/pos_embedding", "txt/position[+]"),
        ("txt/Encoder_0/", "txt/Transformer/"),
        *_below(read(text), "txt/"),
        *_below(read(config.tower), "img/"),
        ("txt/", "text."),
        ("img/", "tower."),
    ]


TABLES = {"google-research/big_vision": _big_vision}
