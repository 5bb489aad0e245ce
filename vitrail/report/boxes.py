"""Boxes drawn on a picture, a colour for each kind, with what they are and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vitrail.report.masks import colours

# Of the longer side: letters, and lines.
LETTER, LINE = 1 / 45, 1 / 250


@dataclass(frozen=True)
class Box:
    """A thing in an image: what it is, how sure that is, and (x0, y0, x1, y1) in pixels."""

    name: str
    score: float
    corners: tuple[float, float, float, float]


def drawn(image: np.ndarray, boxes: Sequence[Box], kinds: Sequence[str]) -> Image.Image:
    """Return the picture of an image, uint8 (h, w, 3), with its boxes, the surest on top."""
    made = Image.fromarray(image)
    pen, side = ImageDraw.Draw(made), max(made.size)
    line, letter = max(1, round(side * LINE)), max(9, round(side * LETTER))
    font = ImageFont.load_default(letter)
    table = {
        name: colour or (255, 80, 0) for name, colour in zip(kinds, colours(kinds), strict=True)
    }
    for box in reversed(boxes):
        colour = table[box.name]
        pen.rectangle(box.corners, outline=colour, width=line)
        text = f"{box.name} {box.score:.0%}"
        x, y = box.corners[0], max(0.0, box.corners[1] - letter - 2 * line)
        pen.rectangle(pen.textbbox((x + line, y), text, font=font), fill=colour)
        pen.text((x + line, y), text, fill=_ink(colour), font=font)
    return made


def _ink(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Choose black on light colours, white on dark ones."""
    light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if light > 140 else (255, 255, 255)
