"""Small pictures of squares and bars with their boxes, for tests of detection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("bar", "square")
SIDE = 32


def scenes(n: int, seed: int = 0):
    """Yield pictures, uint8 (32, 32, 3), with their boxes (m, 4) in pixels and classes (m,)."""
    random = np.random.default_rng(seed)
    for _ in range(n):
        image = random.integers(0, 60, (SIDE, SIDE, 3), np.uint8)
        boxes, labels = [], []
        for side in range(2):
            if random.random() < 0.25:
                continue
            label = int(random.integers(0, 2))
            width, height = (12, 4) if label == 0 else (9, 9)
            left = int(random.integers(0, 16 - width)) + 16 * side
            top = int(random.integers(0, SIDE - height))
            image[top : top + height, left : left + width] = (
                (250, 40, 30) if label else (40, 220, 60)
            )
            boxes.append((left, top, left + width, top + height))
            labels.append(label)
        yield image, boxes, labels


def write(root: Path, n: int = 48) -> Path:
    """Write pictures with Pascal VOC's XML, a third of them named as validation and test."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i, (image, boxes, labels) in enumerate(scenes(n)):
        stem = f"{i:03}"
        Image.fromarray(image).save(root / "JPEGImages" / f"{stem}.png")
        (root / "Annotations" / f"{stem}.xml").write_text(xml(boxes, labels))
        parts["train" if i % 3 else ("val" if i % 2 else "test")].append(stem)
    for part, stems in parts.items():
        (root / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(stems))
    return root


def xml(boxes, labels, size=(SIDE, SIDE)) -> str:
    """Return what Pascal VOC writes, whose pixels count from 1."""
    objects = "".join(
        f"<object><name>{NAMES[label]}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True)
    )
    height, width = size
    sides = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation>{sides}{objects}</annotation>"
