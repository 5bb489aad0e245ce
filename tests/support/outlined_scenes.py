"""Small pictures of discs and triangles with COCO's outlines, for tests of instances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("disc", "triangle")
SIDE = 48


def scenes(n: int, seed: int = 0):
    """Yield pictures, uint8 (48, 48, 3), with the polygons [x1, y1, ...] and classes in them."""
    random = np.random.default_rng(seed)
    for _ in range(n):
        image = random.integers(0, 60, (SIDE, SIDE, 3), np.uint8)
        polygons, labels = [], []
        for side in range(2):
            label, radius = int(random.integers(0, 2)), float(random.uniform(6, 9))
            x, y = 12 + 24 * side + random.uniform(-2, 2), random.uniform(10, SIDE - 10)
            turns = np.linspace(0, 2 * np.pi, 4 if label else 25)[:-1] + random.uniform(0, 6)
            corners = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], 1)
            down, right = np.mgrid[:SIDE, :SIDE] + 0.5
            image[_inside(corners, right, down)] = (250, 40, 30) if label else (40, 220, 60)
            polygons.append(corners.ravel().tolist())
            labels.append(label)
        yield image, polygons, labels


def _inside(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie in a convex polygon, whose corners go around it."""
    ends = np.roll(corners, -1, 0) - corners
    sides = [
        dx * (y - y0) - dy * (x - x0) >= 0 for (x0, y0), (dx, dy) in zip(corners, ends, strict=True)
    ]
    return np.all(sides, 0)


def write(root: Path, n: int = 36) -> Path:
    """Write pictures and COCO's JSON for three parts."""
    (root / "images").mkdir(parents=True)
    told = {part: {"images": [], "annotations": []} for part in ("train", "val", "test")}
    for i, (image, polygons, labels) in enumerate(scenes(n)):
        part = told["train" if i % 3 else ("val" if i % 2 else "test")]
        Image.fromarray(image).save(root / "images" / f"{i:03}.png")
        part["images"].append({"id": i, "file_name": f"{i:03}.png", "height": SIDE, "width": SIDE})
        for at, (polygon, label) in enumerate(zip(polygons, labels, strict=True)):
            x, y = np.array(polygon).reshape(-1, 2).T
            part["annotations"].append({
                "id": 10 * i + at, "image_id": i, "category_id": label + 1, "iscrowd": 0,
                "bbox": [x.min(), y.min(), np.ptp(x), np.ptp(y)], "segmentation": [polygon],
            })  # fmt: skip
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    for part, content in told.items():
        text = json.dumps(content | {"categories": categories}, default=float)
        (root / f"instances_{part}.json").write_text(text)
    return root
