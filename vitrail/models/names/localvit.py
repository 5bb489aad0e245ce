"""Name table of LocalViT: its hosts' names, and those of its feed-forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitrail.config import kind_of
from vitrail.models.names import deit, pvt, swin, t2t_vit, tnt
from vitrail.models.parts.local_feed_forward import ORDERS

_HOSTS: dict[str, Callable[[Any], list]] = {
    "deit": deit.TABLES["timm"],
    "pvt": pvt.TABLES["whai362/PVT"],
    "swin": lambda host: [*swin.TABLES["microsoft/Swin-Transformer"]],  # pyright: ignore
    # The release keeps a norm in the Performers that nothing uses.
    "t2t_vit": lambda host: [(".norm2.", None), *t2t_vit.TABLES["yitu-opensource/T2T-ViT"]],
    "tnt": tnt.TABLES["timm"],
}


def authors(config: Any) -> list:
    """Return the rows of the authors' names."""
    kind = kind_of(type(config.host))
    gated = config.act not in ("relu6", "hs")
    inside = _feed_forward("blocks.{i}" if kind == "t2t_vit" else "", config.local, gated)
    if kind == "t2t_vit":  # the Performers' feed-forwards have no gate
        inside += _feed_forward("tokens_to_token.attention{i}", "between", False)
    return [*inside, *_HOSTS[kind](config.host)]


def _feed_forward(where: str, local: str, gated: bool) -> list:
    """Return the rows of a feed-forward, whose layers are counted with their activations."""
    theirs, ours, rows = f"{where}.conv.conv", f"{where}.ffn", []
    for n, part in enumerate(ORDERS[local]):
        rows += [
            (f"{theirs}.{3 * n}.", f"{ours}.{part}.conv."),
            (f"{theirs}.{3 * n + 1}.", f"{ours}.{part}.norm."),
        ]
    at = 3 * len(ORDERS[local])
    if gated:
        rows += [
            (f"{theirs}.{at}.fc.0.", f"{ours}.gate.fc1."),
            (f"{theirs}.{at}.fc.2.", f"{ours}.gate.fc2."),
            (f"{theirs}.{at}.conv.", f"{ours}.gate.conv."),
        ]
    last = at + gated
    return [
        *rows,
        (f"{theirs}.{last}.", f"{ours}.leave.conv."),
        (f"{theirs}.{last + 1}.", f"{ours}.leave.norm."),
    ]


TABLES: dict[str, Callable[[Any], list]] = {"ofsoundof/LocalViT": authors}
