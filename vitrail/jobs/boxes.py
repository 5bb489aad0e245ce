"""Boxes of a finished run: how its file answers, and the files that they are written to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import files
from vitrail.data import drawn as answers
from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.data.outlines import pasted, runs
from vitrail.engines.boxes import Found, ask, found_by
from vitrail.engines.sealed import open_sealed
from vitrail.errors import RunError
from vitrail.report.box_pictures import Drawn, as_jpeg, drawn
from vitrail.run.folder import RunFolder

# uint8 (h, w, C) of any size to what is found in it.
Answer = Callable[[np.ndarray], Found]


@dataclass(frozen=True)
class Box:
    """One object: its class, how sure that is, (x1, y1, x2, y2) in pixels of the picture, and which
    of its pixels are the object's, bool (H, W), where the run draws outlines."""

    name: str
    score: float
    corners: tuple[float, float, float, float]
    mask: np.ndarray | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data, corners to a hundredth of a pixel, and the mask as COCO's run
        lengths: pixels outside and inside in turns, down the columns."""
        corners = [round(one, 2) for one in self.corners]
        told = {"class": self.name, "score": round(self.score, 4), "box": corners}
        if self.mask is not None:
            told["segmentation"] = {"size": [*self.mask.shape], "counts": runs(self.mask)}
        return told


@dataclass(frozen=True)
class Written:
    """The files of one image: its boxes as JSON, and the image with the boxes drawn."""

    boxes: str
    drawn: str

    def to_json(self) -> dict[str, str]:
        """Return the files by what they hold."""
        return {"file": self.boxes, "drawn": self.drawn}


def box_answer(folder: RunFolder, labels: Labels) -> Answer:
    """Return what answers with boxes: the run's ONNX file, or its weights where there is none.

    Raises RunError.
    """
    if not folder.onnx.is_file():
        from vitrail.layers.fold import deploy

        model, _, labels = folder.load_model()
        return found_by(deploy(model), labels)
    again = f"vitrail export {folder.path} --onnx"
    running = open_sealed(folder.onnx, labels, folder.read_tie(), again)
    if isinstance(running.get_inputs()[0].shape[1], str):
        return lambda image: ask(running, image[None])[0]

    def answer(image: np.ndarray) -> Found:
        [found] = ask(running, resize(image[None], labels.image))
        factor = np.array([image.shape[1], image.shape[0]] * 2) / np.array(
            [*labels.image[::-1]] * 2
        )
        return found._replace(boxes=found.boxes * factor)

    return answer


def listed(found: Found, labels: Labels, least: float, size: tuple[int, int]) -> tuple[Box, ...]:
    """Return the boxes in a picture (H, W) whose score is `least` or more, the surest first."""
    order = np.argsort(-found.scores, kind="stable")
    return tuple(
        Box(
            labels.classes[int(found.labels[i])], float(found.scores[i]), _four(found.boxes[i]),
            None if found.masks is None else pasted(found.masks[i], found.boxes[i], size),
        )
        for i in order
        if found.scores[i] >= least
    )  # fmt: skip


def counts(boxes: Sequence[Box]) -> str:
    """Say how many boxes of each class there are: "2 cat; 1 dog", or ""."""
    found = Counter(one.name for one in boxes)
    return "; ".join(f"{n} {name}" for name, n in found.most_common())


def _four(box: np.ndarray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = map(float, box)
    return x1, y1, x2, y2


def write(out: Path, name: str, image: np.ndarray, boxes: Sequence[Box], labels: Labels) -> Written:
    """Write boxes, and the image with them drawn, to `out`. Raises RunError."""
    written = Written(str(out / f"{name}.json"), str(out / f"{name}-boxes.jpg"))
    under = boxes[::-1]  # the surest lies on top
    corners = np.array([one.corners for one in under]).reshape(-1, 4)
    words = [f"{one.name} {one.score:.2f}" for one in under]
    kinds = np.array([labels.classes.index(one.name) for one in under], np.int64)
    height, width = image.shape[:2]
    told = {"width": width, "height": height, "boxes": [one.to_json() for one in boxes]}
    try:
        answers.make(out)
        text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
        files.write(Path(written.boxes), text.encode())
        some = [one.mask for one in under if one.mask is not None]
        masks = np.array(some) if some else None
        picture = drawn(Drawn(image, corners, kinds, masks=masks), words, labels.classes)
        files.write(Path(written.drawn), as_jpeg(picture))
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({files.reason(error)}): name another folder by --out"
        ) from error
    return written
