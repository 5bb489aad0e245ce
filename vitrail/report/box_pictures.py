"""Boxes as pictures: a colour for each class, drawn around what was found, with its score."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vitrail.report.masks import colours

# On the page a picture is drawn at a side between these.
LEAST, MOST = 240, 480
# Beside each other two such pictures are seen at a half of that, so lines and words are thicker.
THICK = 2.4
# How much of its colour an object's pixels have.
STRENGTH = 0.45
# Words are dark on colours that are lighter than this.
LIGHT = 150


@dataclass(frozen=True, eq=False)
class Drawn:
    """Holds an image to draw on, uint8 (H, W, 1 or 3), boxes (n, 4) in its pixels, their classes
    (n,), their scores (n,) and the pixels of each, bool (n, H, W), where these are known."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    masks: np.ndarray | None = None


def drawn(
    one: Drawn, words: Sequence[str], classes: Sequence[str], thick: float = 1.0
) -> np.ndarray:
    """Return the image with its boxes and a word at each: uint8 (H, W, 3). The last ones lie on
    top; lines and words are so many times as `thick` as usual."""
    boxes, labels = one.boxes, one.labels
    whole = np.broadcast_to(one.image, (*one.image.shape[:2], 3)).astype(np.uint8)
    if one.masks is not None:
        whole = tinted(whole, one.masks, labels, classes)
    picture = Image.fromarray(np.ascontiguousarray(whole))
    pen, table = ImageDraw.Draw(picture), colours(classes)
    side = thick * min(picture.size)
    wide = max(1, round(side / 240))
    font = ImageFont.load_default(max(9, round(side / 36)))
    for (x1, y1, x2, y2), word, label in zip(boxes.tolist(), words, labels.tolist(), strict=True):
        colour = table[label]
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=wide)
        if word:
            _, _, right, low = pen.textbbox((0, 0), word, font=font)
            top = y1 - low - 2 if y1 > low + 2 else y1
            pen.rectangle((x1, top, x1 + right + 3, top + low + 2), fill=colour)
            pen.text((x1 + 2, top), word, fill=_ink(colour), font=font)
    return np.asarray(picture)


def _ink(colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > LIGHT else "white"


def tinted(
    image: np.ndarray, masks: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> np.ndarray:
    """Return an image, uint8 (H, W, 3), under the colours of masks (n, H, W), the last on top."""
    table, out = colours(classes), image.astype(np.float32)
    for mask, label in zip(masks, labels.tolist(), strict=True):
        own = (1 - STRENGTH) * image[mask] + STRENGTH * np.array(table[label], np.float32)
        out[mask] = own
    return (out + 0.5).astype(np.uint8)


def for_page(one: Drawn, classes: Sequence[str]) -> bytes:
    """Return a picture with boxes as a JPEG of a side that suits the page."""
    image = one.image
    side = max(image.shape[:2])
    factor = min(MOST, max(LEAST, side)) / side
    height, width = (max(1, round(n * factor)) for n in image.shape[:2])
    whole = Image.fromarray(np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3))))
    larger = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR))
    stretch = [width / image.shape[1], height / image.shape[0]] * 2
    words = [""] * len(one.labels)
    if one.scores is not None:
        words = [f"{score:.2f}" for score in one.scores]
    masks = one.masks
    if masks is not None:
        down, right = (
            ((np.arange(n) + 0.5) * old / n).astype(int)
            for n, old in zip((height, width), image.shape[:2], strict=True)
        )
        masks = masks[:, down][:, :, right]
    grown = replace(one, image=larger, boxes=one.boxes * stretch, masks=masks)
    return as_jpeg(drawn(grown, words, classes, THICK), quality=80)


def as_jpeg(picture: np.ndarray, *, quality: int = 92) -> bytes:
    """Return uint8 (H, W, 3) as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
