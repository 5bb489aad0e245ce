"""A study: sentences learned beside an image tower that is locked, that learns too, or is new.

    python bench/locking.py FOLDER [--out FOLDER] [--seeds 3] [--epochs 12]

FOLDER has train/ and test/ with a folder for each class. A small ViT learns the classes of the
first `--before` images of each; then a text tower learns, from captions of the next `--pairs` ones,
which `captions.py` makes of the names of classes, with the image tower locked (LiT, arXiv
2111.07991), with both towers learning, and with a new image tower learning as well. Every arm takes
as many steps. Classes of the test images are then told by prompts alone. Results are in
FOLDER/locking.json and a table beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from arms import Figures, finished, table
from captions import Share, write

from vitrail.jobs.train import train_recipe

TOWER = [
    "model=vit_ti16", "model.image=32,32", "model.patch=4", "model.dim=48", "model.depth=3",
    "model.heads=3", "model.hidden=96",
]  # fmt: skip
PAIRS = ["task=image_text", *TOWER, "model.text.depth=1", "steps.batch=128", "steps.ema=none"]
ARMS = {
    "locked": ["objective.locked=true"],
    "unlocked": ["objective.locked=false"],
    "unlocked, new": ["objective.locked=false"],
}


def trained(words: list[str], out: Path) -> None:
    """Train into a folder, or go on with what was stopped there."""
    known = out.is_dir()
    train_recipe(() if known else words, out=out, resume=known, threads=1, device="cpu")


def taught(folder: Path, images: int, epochs: int, out: Path) -> Path:
    """Train the image tower on the first images of each class, once; returns its weights."""
    if not (out / "result.json").is_file():
        rows = ["image,label,split"]
        for part, most in (("train", images), ("test", 100)):
            for own in sorted((folder / part).iterdir()):
                some = sorted(own.iterdir())[:most]
                rows += [f"{one.resolve()},{own.name},{part}" for one in some]
        listed = out.with_suffix(".csv")
        listed.write_text("\n".join(rows))
        steps = epochs * (int(0.85 * images) * 10 // 64)
        words = [*TOWER, f"data={listed}", "steps.batch=64", f"steps.total={steps}"]
        trained(words, out)
    return out / "weights.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("bench-run/locking"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--before", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--first", type=int, default=6, help="epochs of the image tower before")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tower = taught(options.folder, options.before, options.first, options.out / "tower")
    captions = options.out / "captions.csv"
    write(options.folder, captions, Share(options.pairs, 100, options.before))

    def train(arm: str, seed: int) -> Figures:
        run = options.out / f"{arm}-{seed}".replace(", ", "-")
        words = [*PAIRS, *ARMS[arm], f"data={captions}", f"seed={seed}"]
        words += [f"steps.total={options.epochs * (10 * options.pairs // 128)}"]
        if arm != "unlocked, new":
            words.append(f"pretrained={tower}")
        trained(words, run)
        told = json.loads((run / "result.json").read_text())["test"]
        names = ("zero-shot accuracy", "image to text, recall at 5", "text to image, recall at 5")
        return {name: told[name] for name in names}

    found = finished(options.out / "locking.json", list(ARMS), options.seeds, train)
    told = table(found, "unlocked")
    (options.out / "table.md").write_text(told)
    print(told)


if __name__ == "__main__":
    main()
