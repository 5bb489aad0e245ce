"""Short titles of models for people: "ResNet 32-64-128, 0.31 M, 28 px"."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from vitrail.units import count

MOST = 40  # characters
# Families whose file does not begin with a name of one word.
NAMES = {
    "aa_resnet": "AA-ResNet", "attention_cnn": "Attention-CNN", "cbam": "CBAM", "dinat": "DiNAT",
    "eca": "ECA-Net", "evolving": "EA-ResNet", "evolving_series": "EA-DC-Transformer",
    "nat": "NAT", "vatt_sounds": "VATT of waveforms", "vit_c": "ViT-C", "vit_hybrid": "ViT hybrid",
}  # fmt: skip

# What a host is called with whose levels a head of maps reads, or which looks at frames.
HEADS = {
    "segmenter": "Segmenter",
    "semantic_fpn": "FPN",
    "upernet": "UPerNet",
    "per_frame": "frames",
}


def short_title(family: str, config: Any, params: int, image: tuple[int, int]) -> str:
    """Return a title of at most 40 characters: family, widths, parameters, size of the image.

    The widths are those of the stages, or width x depth of a model of one width. Models may share
    a title: the config says what they are exactly.
    """
    name, figures, behind = (
        family_title(family, config),
        f"{_millions(params)}, {_pixels(image)}",
        "",
    )
    if family in HEADS:
        config, behind = config.host, f" + {HEADS[family]}"
        name = family_title(type(config).__module__.rpartition(".")[2], config)
    for widths in _widths(config):
        title = f"{name} {widths}{behind}, {figures}" if widths else f"{name}{behind}, {figures}"
        if len(title) <= MOST:
            return title
    room = MOST - len(figures) - 2
    return f"{name[:room]}, {figures}"[:MOST]


def family_title(family: str, config: Any) -> str:
    """Return the family's name as its paper writes it, e.g. "CaiT" for cait."""
    if family in NAMES:
        return NAMES[family]
    about = getattr(sys.modules.get(type(config).__module__), "__doc__", None) or ""
    first, colon, _ = about.partition(":")
    # "CaiT: deep transformers by ...": what stands before the colon, if that is the same word.
    same = re.sub(r"\W|_", "", first).lower() == re.sub(r"\W|_", "", family).lower()
    return first if colon and same else family.replace("_", "-")


def _widths(config: Any) -> Iterator[str]:
    """Yield the widths as words, each shorter than the one before; none at last."""
    dims = getattr(config, "dims", None) or ()
    if len(dims) > 1:
        yield "-".join(map(str, dims))
        yield f"{dims[0]}..{dims[-1]}"
    width = dims[0] if dims else getattr(config, "dim", None)
    if width is not None:
        if depth := _depth(config):
            yield f"{width}x{depth}"
        yield str(width)
    yield ""


def _depth(config: Any) -> str:
    """Return the number of blocks, by stages where there are several;
    empty where nothing says it.
    """
    for field in ("depths", "depth", "cells", "local", "heads"):
        value = getattr(config, field, None)
        if isinstance(value, int) and field in ("depth", "cells"):
            return str(value)
        if isinstance(value, tuple) and value:
            # Searched models give each block a kind or heads of its own.
            return "-".join(map(str, value)) if field == "depths" else str(len(value))
    return ""


def _millions(params: int) -> str:
    millions = params / 1e6
    if millions < 0.01:
        return count(params)
    return f"{millions:.2f} M" if millions < 10 else f"{millions:.0f} M"


def _pixels(image: tuple[int, int]) -> str:
    height, width = image
    if height == 1:  # a sound
        return f"{width} samples"
    if width == 1:  # a time series
        return f"{height} steps"
    return f"{height} px" if height == width else f"{height}x{width} px"
