"""What published weights say of photographs: names, normalisation and crop proved on a few.

    python bench/published.py PHOTOGRAPHS WEIGHTS [WEIGHTS ...]

PHOTOGRAPHS is a folder of JPEGs whose names end in the number of their ImageNet class, such as
`imagenet_07_609.jpg` (twenty of them lie in the package foolbox 3.3.4, in foolbox/data). Each file
of weights is recognised by its names and shapes; images are resized and cropped as its publisher
evaluates, and the share of right answers is printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vitrail
from vitrail.models import Identity, catalog
from vitrail.run.normalisation import normalisation


def photographs(folder: Path) -> list[tuple[Image.Image, int]]:
    """Return the pictures of a folder and their classes."""
    found = []
    for path in sorted(folder.glob("imagenet_*")):
        if label := re.search(r"_(\d+)\.(?:jpe?g|png)$", path.name):
            found.append((Image.open(path).convert("RGB"), int(label[1])))
    if not found:
        raise SystemExit(f"{folder} has no imagenet_NUMBER_CLASS.jpg: name another folder")
    return found


def cropped(picture: Image.Image, side: int, share: float, way: str) -> np.ndarray:
    """Return the middle (side, side, 3) in [0, 1] of a picture, resized so that its shorter side
    is side / share."""
    shorter = int(side / share)
    scale = shorter / min(picture.size)
    sides = [max(shorter, round(length * scale)) for length in picture.size]
    resized = picture.resize((sides[0], sides[1]), getattr(Image.Resampling, way.upper()))
    left, top = ((length - side) // 2 for length in resized.size)
    return np.asarray(resized.crop((left, top, left + side, top + side)), np.float32) / 255


def answered(weights: Path, pictures: list[tuple[Image.Image, int]]) -> dict[str, Any]:
    """Return what a file is, what its images are taken as, and how many are told right."""
    known: Identity = vitrail.identify(weights)
    takes, share = normalisation(weights, known), catalog()[known.name].crop_pct
    model = vitrail.load(known.name, weights)
    side = known.config.image[0]
    images = np.stack([cropped(p, side, share, takes.interpolation) for p, _ in pictures])
    values = (images - np.array(takes.mean, np.float32)) / np.array(takes.std, np.float32)
    with torch.no_grad():
        logits = model(torch.from_numpy(values).permute(0, 3, 1, 2).contiguous())
    right = sum(int(a) == b for a, (_, b) in zip(logits.argmax(1), pictures, strict=True))
    return {
        "weights": weights.name, "model": known.name, "names": known.source, "mean": takes.mean,
        "std": takes.std, "crop": share, "interpolation": takes.interpolation,
        "right": right, "of": len(pictures),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    options = parser.parse_args()
    pictures = photographs(options.photographs)
    for weights in options.weights:
        print(json.dumps(answered(weights, pictures)), flush=True)


if __name__ == "__main__":
    main()
