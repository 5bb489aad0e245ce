"""Captions for a folder of classes: a table of image, caption, label and split, to try pairs with.

    python bench/captions.py FOLDER OUT [--train 150] [--test 100] [--skip 0] [--seed 0]

FOLDER has train/ and test/ with a folder for each class. Captions are made of the class's name, a
template and a word that means nothing here, so each says which class an image is of and nothing
more of it: they are not captions that a person wrote. `--skip` leaves out the first images of each
class, which an image tower has learned from.
"""

from __future__ import annotations

import argparse
import csv
import random
from dataclasses import dataclass
from pathlib import Path

TEMPLATES = (
    "a photo of a {}", "a {word} picture of a {}", "this is a {}", "a {} in a {word} photo",
    "look at the {}", "one {word} {}", "a {} seen on a {word} day", "the {word} {}",
)  # fmt: skip
WORDS = ("small", "large", "bright", "dark", "old", "new", "grey", "sunny", "blurred", "nice")


@dataclass(frozen=True)
class Share:
    """Which images of each class have a caption: `train` of the training part behind the first
    `skip`, and the first `test` of the test part."""

    train: int = 150
    test: int = 100
    skip: int = 0


def write(folder: Path, out: Path, share: Share, seed: int = 0) -> None:
    """Write the table of a folder's images and captions, which the seed draws."""
    draw = random.Random(seed)
    with open(out, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "label", "split"])
        parts = (("train", share.skip, share.train), ("test", 0, share.test))
        for part, skip, most in parts:
            for own in sorted((folder / part).iterdir()):
                for image in sorted(own.iterdir())[skip : skip + most]:
                    text = draw.choice(TEMPLATES).replace("{word}", draw.choice(WORDS))
                    where = image.resolve()
                    table.writerow([where, text.replace("{}", own.name), own.name, part])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=150)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    write(asked.folder, asked.out, Share(asked.train, asked.test, asked.skip), asked.seed)


if __name__ == "__main__":
    main()
