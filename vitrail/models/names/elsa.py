"""Name tables of ELSA: its hosts' names, and those of its layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from vitrail.config import kind_of
from vitrail.models.names import swin, volo


def authors(config: Any) -> list:
    """Return the rows of the authors' names; in Swin the last stage has windows, which pack
    [v | q | k] and have biases by key minus query."""
    host = config.host
    if kind_of(type(host)) == "volo":
        inside = layer("network.0.{j}.attn.", "stages.0.blocks.{j}.mixer.", host.dims[0], config)
        return [*inside, *volo.TABLES["sail-sg/volo"](host)]
    last, rows = len(host.depths) - 1, []
    for i in range(last):
        theirs, ours = f"layers.{i}.blocks.{{j}}.attn.", f"stages.{i}.blocks.{{j}}.mixer."
        rows += layer(theirs, ours, host.dim * 2**i, config)
    theirs, ours = f"layers.{last}.blocks.{{j}}.attn.", f"stages.{last}.blocks.{{j}}.mixer."
    return [
        *rows,
        (f"{theirs}pre_proj.", f"{ours}qkv.", lambda v: v.roll(-(len(v) // 3), 0)),
        (f"{theirs}rb", f"{ours}bias.table", lambda table: table.mT.flip(0)),
        (f"{theirs}post_proj.", f"{ours}proj."),
        (".relative_id", None),
        *swin.TABLES["microsoft/Swin-Transformer"],  # pyright: ignore[reportGeneralTypeIssues]
    ]


def layer(theirs: str, ours: str, dim: int, config: Any) -> list:
    """Return the rows of a layer of `dim` channels, whose ghost heads are `config.ghost`."""
    heads = {"mul": f"{ours}factor", "add": f"{ours}ghost.weight"}
    ghost = tuple(heads[part] for part in ("mul", "add") if part in config.ghost)
    return [
        *[
            (f"{theirs}pre_proj.{leaf}", (f"{ours}qk.{leaf}", f"{ours}v.{leaf}"), split)
            for leaf in ("weight", "bias")
            for split in [partial(_split, channels=dim)]
        ],
        *([(f"{theirs}ghost_head", ghost, partial(_ghost, count=len(ghost)))] if ghost else []),
        (f"{theirs}attn.0.", f"{ours}mix."),
        (f"{theirs}attn.2.weight", f"{ours}logits.weight", lambda v: v.flatten(1)),
        (f"{theirs}attn.2.bias", f"{ours}logits.bias"),
        (f"{theirs}post_proj.", f"{ours}proj."),
    ]


def _split(packed: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Split a 1x1 kernel, or its bias, into that of queries and keys and that of the values."""
    flat = packed.flatten(1) if packed.ndim > 1 else packed
    return flat[:-channels], flat[-channels:]


def _ghost(packed: Tensor, count: int) -> tuple[Tensor, ...]:
    """Turn (2, 1, C, k, k), or (1, C, k, k) where there is one part, into kernels (C, 1, k, k)."""
    parts = packed.unbind(0) if count == 2 else (packed,)
    if len(parts) != count or parts[0].ndim != 4:
        raise ValueError(f"ghost_head is {tuple(packed.shape)}: expected that of {count} parts")
    return tuple(part.transpose(0, 1) for part in parts)


TABLES: dict[str, Callable[[Any], list]] = {"damo-cv/ELSA": authors}
