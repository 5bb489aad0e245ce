"""Masks as pictures: a colour for each class, laid over the image, and as PNG files of indices."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from vitrail.report.text import plain

# Of a class of such a name the image shows as it is.
BACKGROUND = ("background", "other", "none")
# What pixels that count for nothing look like.
VOID = (128, 128, 128)
STRENGTH = 0.55
_GOLDEN = 0.618034


def colours(classes: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return an RGB colour for each class, far apart for neighbours; black for a background."""
    found, turn = [], 0
    for name in classes:
        if name.casefold() in BACKGROUND:
            found.append((0, 0, 0))
            continue
        hue, light = (0.55 + turn * _GOLDEN) % 1, (0.95, 0.7, 0.82)[turn // 7 % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 - 0.25 * (turn // 3 % 2), light)
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
        turn += 1
    return found


def legend(names: Sequence[str]) -> Markup:
    """Return each class with its colour; a background is the image itself."""
    shown = [
        Markup('<span class="swatch" style="background: rgb({}, {}, {})"></span>&nbsp;{}').format(
            *colour, plain(name)
        )
        for name, colour in zip(names, colours(names), strict=True)
        if name.casefold() not in BACKGROUND
    ]
    return Markup(", ").join(shown)


def over(image: np.ndarray, mask: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return an image, uint8 (H, W, 1 or 3), under the colours of a mask (H, W): uint8 (H, W, 3).

    Borders between classes are drawn in full, a background not at all, ignored pixels in grey.
    """
    table = np.full((256, 3), VOID, np.float32)
    table[: len(classes)] = colours(classes)
    share = np.full(256, STRENGTH, np.float32)
    for label, name in enumerate(classes):
        share[label] = 0.0 if name.casefold() in BACKGROUND else STRENGTH
    below = np.broadcast_to(image, (*mask.shape, 3)).astype(np.float32)
    weight = share[mask]
    weight[_borders(mask)] *= 1 / STRENGTH
    weight = weight[..., None]
    return ((1 - weight) * below + weight * table[mask] + 0.5).astype(np.uint8)


def _borders(mask: np.ndarray) -> np.ndarray:
    """Return the pixels whose right or lower neighbour is of another class, or that are one."""
    edge = np.zeros(mask.shape, bool)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def as_png(picture: np.ndarray, *, least: int = 0) -> bytes:
    """Return uint8 (H, W, 3) as a PNG, its pixels enlarged to squares up to a side of `least`."""
    drawn = Image.fromarray(picture)
    times = -(-least // max(1, max(drawn.size)))
    if times > 1:
        size = (drawn.width * times, drawn.height * times)
        drawn = drawn.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def index_png(mask: np.ndarray, classes: Sequence[str]) -> bytes:
    """Return a mask (H, W) as a palette PNG whose pixels are the indices of classes."""
    drawn = Image.fromarray(mask)
    table = [*colours(classes), *[VOID] * (256 - len(classes))]
    drawn.putpalette([band for colour in table for band in colour])
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
