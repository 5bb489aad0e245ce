"""The names that the authors of Swin and CSWin give to networks with UPerNet's head.

Both train in mmsegmentation, whose names its head has; the auxiliary head of the training is left
out. CSWin counts the norms of levels from 1, Swin from 0. A backbone alone has the same names
without a prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.checkpoint import Row
from vitrail.config import kind_of
from vitrail.models.names import cswin, swin


def _convs(theirs: str, ours: str) -> list[Row]:
    """Return the rows of a convolution with its norm."""
    return [
        (f"decode_head.{theirs}.conv.", f"head.{ours}.conv."),
        (f"decode_head.{theirs}.bn.", f"head.{ours}.norm."),
    ]


_HEAD: list[Row] = [
    ("auxiliary_head.", None),
    *_convs("psp_modules.{i}.1", "pooled.{i}"),
    *_convs("bottleneck", "scene"),
    *_convs("lateral_convs.{i}", "laterals.{i}"),
    *_convs("fpn_convs.{i}", "smooth.{i}"),
    *_convs("fpn_bottleneck", "fused"),
    ("decode_head.conv_seg.weight", "head.classifier.weight", lambda kernel: kernel.flatten(1)),
    ("decode_head.conv_seg.", "head.classifier."),
]


def _inside(rows: list[Row]) -> list[Row]:
    """Return rows whose targets lie in the part `backbone`; those for any place in a name stay."""
    return [
        row
        if row[0].startswith(".") or row[1] is None
        else (row[0], f"backbone.{row[1]}", *row[2:])
        for row in rows
    ]


def _cswin(config: Any) -> list[Row]:
    if kind_of(type(config.host)) != "cswin":
        return []
    rows = cswin.TABLES["microsoft/CSWin-Transformer"]
    return [("backbone.", ""), ("norm{i}.", "norms.{i-1}."), *_inside(rows), *_HEAD]


def _swin(config: Any) -> list[Row]:
    if kind_of(type(config.host)) != "swin":
        return []
    rows: list[Row] = swin.TABLES["microsoft/Swin-Transformer"]  # pyright: ignore[reportAssignmentType]
    return [("backbone.", ""), ("norm{i}.", "norms.{i}."), *_inside(rows), *_HEAD]


TABLES: dict[str, Callable[[Any], list[Row]]] = {
    "microsoft/CSWin-Transformer": _cswin,
    "microsoft/Swin-Transformer": _swin,
}
