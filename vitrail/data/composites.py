"""Composites with exact masks or boxes: garments on drawn canvases, or cut-outs on pictures.

They are not photographs: the garments are Fashion-MNIST's own pixels, tinted and enlarged, the
canvases are smooth colours with a pattern and noise, and the truth follows from what was drawn.
Cut-outs are pictures whose alpha says what belongs to them, in a folder for each kind; they lie on
cut-outs of other pictures. Composites try and compare networks of maps and boxes where no annotated
photographs are at hand, and show nothing more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.data.builtin import BUILTIN
from vitrail.errors import ConfigError

# Garments are bright on black; what is darker than this is not of them.
DARK = 24
# Of an alpha from 0 to 255 what is as much is the thing's.
SOLID = 128
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Composites:
    """What is drawn: `n` pictures of (height, width) `image` with `least` to `most` garments of the
    first `kinds` kinds, each `scale` times its 28 pixels. Raises ConfigError."""

    n: int = 200
    image: tuple[int, int] = (64, 64)
    kinds: int = 10
    least: int = 1
    most: int = 4
    scale: tuple[float, float] = (0.8, 1.6)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n < 1 or min(self.image) < 16 or not 1 <= self.kinds <= 10:
            raise ConfigError(
                f"composites are {self.n} of {self.image} with {self.kinds} kinds: give one at "
                "least, sides from 16 and 1 to 10 kinds"
            )
        if not 0 <= self.least <= self.most or not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"composites have {self.least} to {self.most} garments at {self.scale}: give the "
                "smaller number first"
            )


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture, uint8 (H, W, 3), what lies on top at each pixel, (H, W): 0 the canvas, n what was
    drawn n-th, and the kind of each that was drawn."""

    image: np.ndarray
    top: np.ndarray
    kinds: Sequence[int]

    @property
    def mask(self) -> np.ndarray:
        """Return the mask, uint8 (H, W): 0 is the canvas, k the kind k - 1."""
        return np.array([0, *(kind + 1 for kind in self.kinds)], np.uint8)[self.top]

    @property
    def boxes(self) -> list[tuple[int, tuple[int, int, int, int]]]:
        """Return of each thing its kind and the box (x, y, width, height) of what is seen of it;
        what is hidden has none."""
        found = []
        for number, kind in enumerate(self.kinds, 1):
            seen = self.top == number
            if seen.any():
                rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
                x, y = int(columns[0]), int(rows[0])
                found.append((kind, (x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y)))
        return found


def write(
    folder: str | os.PathLike,
    what: Composites,
    *,
    boxes: bool = False,
    cutouts: str | os.PathLike | None = None,
    canvases: str | os.PathLike | None = None,
) -> Path:
    """Draw composites into `folder`: images/ with masks/ and classes.txt, or with COCO's file of
    `boxes`; returns the folder.

    Things are garments of the bundled sample, or `cutouts`: a folder with one of pictures with
    alpha for each kind, which lie on pictures of `canvases`. The same values give the same files.
    Raises ConfigError.
    """
    root = Path(folder)
    names, draw = _garments(what) if cutouts is None else _pasting(Path(cutouts), canvases, what)
    (root / "images").mkdir(parents=True, exist_ok=True)
    if not boxes:
        (root / "masks").mkdir(exist_ok=True)
        (root / "classes.txt").write_text("\n".join(["background", *names]) + "\n")
    pictures, annotations = [], []
    for number in range(what.n):
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((what.seed, number))))
        one, name = draw(random), f"{number:05}.png"
        Image.fromarray(one.image).save(root / "images" / name)
        height, width = one.top.shape
        pictures.append({"id": number, "file_name": name, "height": height, "width": width})
        for kind, box in one.boxes:
            found = {"id": len(annotations), "image_id": number, "category_id": kind}
            annotations.append({**found, "bbox": box, "iscrowd": 0})
        if not boxes:
            Image.fromarray(one.mask).save(root / "masks" / name)
    if boxes:
        kinds = [{"id": at, "name": name} for at, name in enumerate(names)]
        told = {"images": pictures, "annotations": annotations, "categories": kinds}
        (root / "boxes.json").write_text(json.dumps(told))
    return root


Draw = Callable[[np.random.Generator], Drawn]


def _garments(what: Composites) -> tuple[Sequence[str], Draw]:
    source = BUILTIN["fashion-sample"](None)
    assert source.pixels is not None
    labels = np.array([item.label for item in source.items])
    cutouts = [source.pixels[labels == label] for label in range(what.kinds)]
    return source.classes[: what.kinds], lambda random: drawn(cutouts, what, random)


def compose(
    cutouts: Sequence[np.ndarray], what: Composites, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture of garments, uint8 (H, W, 3), and its mask (H, W), as `drawn` does."""
    one = drawn(cutouts, what, random)
    return one.image, one.mask


def drawn(cutouts: Sequence[np.ndarray], what: Composites, random: np.random.Generator) -> Drawn:
    """Draw one picture of garments; `cutouts` are the uint8 pictures (N, 28, 28) of each kind, and
    later ones lie over earlier ones."""
    height, width = what.image
    image, top, kinds = _canvas(what.image, random), np.zeros(what.image, np.int64), []
    for _ in range(random.integers(what.least, what.most + 1)):
        kind = int(random.integers(len(cutouts)))
        garment = cutouts[kind][random.integers(len(cutouts[kind]))]
        side = max(8, round(28 * random.uniform(*what.scale)))
        resized = Image.fromarray(garment).resize((side, side), Image.Resampling.BILINEAR)
        values = np.asarray(resized, np.float32)
        tint = random.uniform(0.35, 1.0, 3).astype(np.float32)
        kinds.append(kind)
        place = _placed((side, side), (height, width), random)
        _laid(image, top, len(kinds), values[..., None] * tint, values >= DARK, place)
    noise = random.normal(0, 4, image.shape).astype(np.float32)
    return Drawn((image + noise).clip(0, 255).astype(np.uint8), top, kinds)


def _placed(
    size: tuple[int, int], whole: tuple[int, int], random: np.random.Generator
) -> tuple[int, int]:
    """Draw where a thing of (height, width) lies, up to a quarter of it outside."""
    top, left = (
        int(random.integers(-own // 4, side - 3 * own // 4 + 1))
        for own, side in zip(size, whole, strict=True)
    )
    return top, left


def _laid(
    image: np.ndarray, top: np.ndarray, number: int, values: np.ndarray, shown: np.ndarray,
    place: tuple[int, int],
) -> None:  # fmt: skip
    """Lay a thing, values (h, w, 3) where it is `shown`, over a picture."""
    (down, right), (height, width) = place, top.shape
    h, w = shown.shape
    rows = slice(max(0, down), min(height, down + h))
    columns = slice(max(0, right), min(width, right + w))
    cut = (slice(rows.start - down, rows.stop - down),
           slice(columns.start - right, columns.stop - right))  # fmt: skip
    image[rows, columns][shown[cut]] = values[cut][shown[cut]]
    top[rows, columns][shown[cut]] = number


def _pasting(
    cutouts: Path, canvases: str | os.PathLike | None, what: Composites
) -> tuple[Sequence[str], Draw]:
    """Return the kinds of a folder of cut-outs, and what draws them. Raises ConfigError."""
    kinds = {one.name: _pictures(one) for one in sorted(cutouts.glob("*")) if one.is_dir()}
    kinds = {name: files for name, files in kinds.items() if files}
    grounds = _pictures(Path(canvases)) if canvases is not None else []
    if not kinds or not grounds:
        raise ConfigError(
            f"{cutouts if not kinds else canvases or 'canvases'} has no pictures: give a folder "
            "with one of pictures with alpha for each kind, and one of pictures to lay them on"
        )
    names = [*kinds]
    return names, lambda random: _pasted([kinds[name] for name in names], grounds, what, random)


def _pictures(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("*") if one.suffix.lower() in SUFFIXES)


def _pasted(
    kinds: Sequence[Sequence[Path]], grounds: Sequence[Path], what: Composites,
    random: np.random.Generator,
) -> Drawn:  # fmt: skip
    """Draw one picture of cut-outs; their longer side is 28 pixels times the scale."""
    height, width = what.image
    with Image.open(grounds[int(random.integers(len(grounds)))]) as opened:
        ground = opened.convert("RGB")
    zoom = max(width / ground.width, height / ground.height) * random.uniform(1.0, 2.0)
    ground = ground.resize((round(ground.width * zoom) + 1, round(ground.height * zoom) + 1))
    left = int(random.integers(ground.width - width + 1))
    down = int(random.integers(ground.height - height + 1))
    image = np.array(ground.crop((left, down, left + width, down + height)))
    top, found = np.zeros(what.image, np.int64), []
    for _ in range(random.integers(what.least, what.most + 1)):
        kind = int(random.integers(len(kinds)))
        with Image.open(kinds[kind][int(random.integers(len(kinds[kind])))]) as opened:
            thing = opened.convert("RGBA")
        thing = thing.crop(thing.getchannel("A").getbbox())
        longer = max(8, round(28 * random.uniform(*what.scale)))
        sides = [max(1, round(side * longer / max(thing.size))) for side in thing.size]
        values = np.asarray(thing.resize((sides[0], sides[1]), Image.Resampling.BILINEAR))
        found.append(kind)
        place = _placed(values.shape[:2], what.image, random)
        _laid(image, top, len(found), values[..., :3], values[..., 3] >= SOLID, place)
    return Drawn(image, top, found)


def _canvas(image: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Draw a smooth canvas with stripes: float32 (H, W, 3)."""
    height, width = image
    small = random.uniform(20, 200, (3, 3, 3)).astype(np.uint8)
    smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    angle, pace = random.uniform(0, np.pi), random.uniform(0.15, 0.8)
    wave = np.sin(pace * (np.cos(angle) * across + np.sin(angle) * down))
    stripes = random.uniform(0, 25) * wave[..., None]
    return (np.asarray(smooth, np.float32) + stripes).astype(np.float32)
