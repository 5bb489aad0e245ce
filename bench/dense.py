"""Studies of networks that answer for more than the image: arms of maps, and arms of boxes.

    python bench/dense.py segmenter [--out FOLDER] [--seeds 3] [--steps 300] [--train 1200]
    python bench/dense.py pyramids
    python bench/dense.py boxes

`segmenter`: a mask transformer against one linear layer, on patches of 14 and of 7 pixels.
`pyramids`: CSWin against Swin under one light FPN, at equal multiply-adds. Both learn composites
with exact masks (`vitrail.data.composites`), 56 pixels wide. `boxes`: attention and global context
in a small ResNet's last stages, or in all, against the plain one, in a RetinaNet on composites of
64 pixels (`bench/boxed.py`). All are of garments of the bundled sample on drawn canvases, so
nothing here says how good a network is on photographs. The arms of a study differ in the network
alone. Results are in FOLDER/STUDY.json, a table beside them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from arms import Figures, finished, table
from boxed import cutouts, drawn, write

from vitrail.config import to_json
from vitrail.data.batches import generator
from vitrail.data.composites import Composites
from vitrail.data.composites import write as write_masks
from vitrail.jobs.wish import completed, wished
from vitrail.models import (
    aa_resnet,
    botnet,
    config_json,
    cswin,
    gcnet,
    halonet,
    lesa,
    resnet,
    retinanet,
    sasa,
    segmenter,
    semantic_fpn,
    swin,
    vit,
)
from vitrail.models.parts.mask_transformer import MaskDecoder
from vitrail.models.trunk.backbone import sized
from vitrail.recipes.recipe import Data
from vitrail.run.judge import judge
from vitrail.run.reading import Hardware, Read, read
from vitrail.run.subject import subject
from vitrail.run.view import View
from vitrail.tasks import Detection, Segmentation, Tasks
from vitrail.units import count

MAPS, BOXES = (56, 56), (64, 64)
# Of the last stage both blocks attend where a paper chooses stages.
TRUNK: dict[str, Any] = {
    "depths": (1, 1, 2), "dims": (16, 32, 64), "expansion": 2, "stem_kernel": 3, "stem_stride": 2,
    "image": BOXES,
}  # fmt: skip
LAST = ((), (), (0, 1))


def segmenters() -> dict[str, Any]:
    """Return networks of a plain ViT, by patch and decoder."""
    made = {}
    for patch in (14, 7):
        host = vit.Config(96, 4, 4, 192, patch, image=MAPS)
        made[f"patch {patch}, linear"] = segmenter.Config(host, segmenter.LinearDecoder())
        made[f"patch {patch}, mask"] = segmenter.Config(host, MaskDecoder())
    return made


def pyramids() -> dict[str, Any]:
    """Return two pyramids of nearly equal multiply-adds under the same head."""
    hosts = {
        "Swin": swin.Config(32, (1, 1, 2), (1, 2, 4), window=7, patch=2, drop_path=0.0, image=MAPS),
        "CSWin": cswin.Config(
            32, (1, 1, 2), (2, 4, 8), stripes=(1, 2, 7), patch=2, drop_path=0.0, image=MAPS
        ),
    }
    return {name: semantic_fpn.Config(host, width=64) for name, host in hosts.items()}


def detectors() -> dict[str, Any]:
    """Return a RetinaNet on a small ResNet and on what papers make of it."""
    plain = resnet.Config(**TRUNK)
    hosts = {
        "ResNet": plain,
        "AA": aa_resnet.Config(plain, heads=4),
        "SASA": sasa.Config(**TRUNK, kernel=5, heads=4, mixtures=0),
        "BoT": botnet.Config(**TRUNK, attending=LAST),
        "GC": gcnet.Config(**TRUNK, context=gcnet.GC(ratio=1 / 4), stages=(False, True, True)),
        "Halo": halonet.Config(
            **TRUNK, attending=LAST, heads=(4, 4, 4), block=4, halo=2, scaled=True
        ),
        "LESA": lesa.Config(**TRUNK, strides=(2, 2), groups=4),
    }
    return {name: retinanet.Config(host, width=32) for name, host in hosts.items()}


STUDIES: Mapping[str, tuple[Callable[[], dict[str, Any]], Tasks, str]] = {
    "segmenter": (segmenters, Segmentation(), "patch 14, linear"),
    "pyramids": (pyramids, Segmentation(), "Swin"),
    "boxes": (detectors, Detection(), "ResNet"),
}


def drawn_data(folder: Path, task: Tasks, images: int) -> None:
    """Draw what a study learns from, once."""
    if folder.is_dir():
        return
    if task.maps:
        write_masks(folder, Composites(images * 10 // 7, MAPS))
        return
    for number, (part, n) in enumerate((("train", images), ("val", 100), ("test", 200))):
        kinds, names = cutouts("test" if part == "test" else "train")
        tiles = (drawn(kinds, range(len(names)), generator(number, at)) for at in range(n))
        write(folder, part, tiles, names)


def figures(images: Read, spec: Path, steps: int, config: Any, seed: int, task: Tasks) -> Figures:
    """Train a network and return what the test part says of it."""
    name = "segmentation" if task.maps else "detection"
    words = [
        f"task={name}", f"model={json.dumps(to_json(config_json(config)))}", f"data={spec}",
        f"seed={seed}", "steps.batch=16", f"steps.total={steps}",
    ]  # fmt: skip
    recipe, _ = completed(wished(words), images.workshop)
    folder = spec.parent / "snapshots"
    shutil.rmtree(folder, ignore_errors=True)
    model = images.workshop.train(recipe, folder, steps).best
    verdict = judge(model, recipe, images.workshop.split.test, images.workshop)
    scores = recipe.task.scores(verdict.outputs)
    shutil.rmtree(folder, ignore_errors=True)
    if task.maps:
        return {scores.name: scores.main}
    return {"AP": scores.main, "AP at 0.5": scores.figures["at overlap 0.5"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", choices=[*STUDIES])
    parser.add_argument("--out", type=Path, default=Path("bench-run/dense"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--train", type=int, default=1200)
    asked = parser.parse_args()
    make, task, base = STUDIES[asked.study]
    spec = asked.out / ("boxes" if task.boxes else "masks")
    asked.out.mkdir(parents=True, exist_ok=True)
    drawn_data(spec, task, asked.train)
    images = read(Data(str(spec)), Hardware("cpu"), View(), task)
    split = images.workshop.split
    arms = {
        name: sized(config, classes=len(split.classes), channels=split.channels)
        for name, config in make().items()
    }
    for name, config in arms.items():
        one = subject(config)
        print(f"{name}: {count(one.params)} parameters, {count(one.macs)} multiply-adds")
    measured = partial(figures, images, spec, asked.steps, task=task)
    found = finished(
        asked.out / f"{asked.study}.json", [*arms], asked.seeds,
        lambda arm, seed: measured(config=arms[arm], seed=seed),
    )  # fmt: skip
    told = table(found, base)
    (asked.out / f"{asked.study}.md").write_text(told)
    print(told)


if __name__ == "__main__":
    main()
