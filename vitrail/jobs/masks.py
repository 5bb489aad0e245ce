"""Masks of a finished run: how its file answers, and the files that they are written to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail import files
from vitrail.data import drawn as answers
from vitrail.data.decode import resize
from vitrail.data.labels import Labels
from vitrail.engines.masks import likeliest
from vitrail.engines.sealed import open_sealed
from vitrail.errors import RunError
from vitrail.report.masks import as_png, index_png, over
from vitrail.run.folder import RunFolder

# What the name of a picture of a mask has beyond that of the mask.
OVERLAY = "-overlay"

# uint8 (h, w, C) of any size to the class of each of its pixels, uint8 (h, w).
Answer = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Written:
    """The files of one image: the mask of indices, and the image under its colours."""

    mask: str
    overlay: str

    def to_json(self) -> dict[str, str]:
        """Return the files by what they hold."""
        return {"mask": self.mask, "overlay": self.overlay}


def mask_answer(folder: RunFolder, labels: Labels) -> Answer:
    """Return what answers with a mask: the run's ONNX file, or its weights where there is none.

    Raises RunError.
    """
    return _onnx(folder, labels) if folder.onnx.is_file() else _torch(folder)


def _onnx(folder: RunFolder, labels: Labels) -> Answer:
    again = f"vitrail export {folder.path} --onnx"
    running = open_sealed(folder.onnx, labels, folder.read_tie(), again)
    if isinstance(running.get_inputs()[0].shape[1], str):
        return lambda image: np.asarray(running.run(["mask"], {"images": image[None]})[0])[0]

    def answer(image: np.ndarray) -> np.ndarray:
        import torch

        small = resize(image[None], labels.image)
        scores = np.asarray(running.run(["logits"], {"images": small})[0])
        return likeliest(torch.from_numpy(scores), image.shape[:2])[0].numpy()  # pyright: ignore[reportArgumentType]

    return answer


def _torch(folder: RunFolder) -> Answer:
    import torch

    from vitrail.layers.fold import deploy

    model, _, labels = folder.load_model()
    model = deploy(model)

    def answer(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            scores = model(labels.normalised(resize(image[None], labels.image)))
        return likeliest(scores, image.shape[:2])[0].numpy()  # pyright: ignore[reportArgumentType]

    return answer


def shares(mask: np.ndarray, labels: Labels) -> np.ndarray:
    """Return which share of a mask's pixels each class has: float64 (classes,)."""
    return np.bincount(mask.ravel(), minlength=len(labels.classes)) / mask.size


def mask_folder(run: RunFolder, what: str = "masks") -> Path:
    """Return a folder in the working directory that is not there yet: masks-of-RUN."""
    number, name = 1, f"{what}-of-{run.path.resolve().name}"
    while True:
        path = Path(name + (f"-{number}" if number > 1 else ""))
        if not path.exists():
            return path
        number += 1


def check_out(out: Path) -> None:
    """Raise RunError for a folder of answers that has something in it, or cannot be written."""
    if out.exists() and (not out.is_dir() or any(not left_over(one) for one in out.iterdir())):
        raise RunError(f"{out} exists and is not overwritten: name another folder by --out")
    RunFolder.check_writable(out, "folder")


def left_over(entry: Path) -> bool:
    """Return whether what was killed before the first answer left this."""
    return entry.name == answers.MARK or (entry.name[:1] == "." and entry.suffix == files.PART)


def names(paths: Sequence[str]) -> list[str]:
    """Return a name for the mask of each image: its own without its ending, numbered where that,
    or the name of its picture, is another's already, and cut where it is too long."""
    taken, found, numbers = set[str](), [], Counter[str]()
    for path in paths:
        stem = files.fitted(Path(path).stem or "image")
        name, number = stem, numbers[stem]
        while {name, name + OVERLAY} & taken:
            number += 1
            name = f"{stem}-{number + 1}"
        numbers[stem] = number
        taken |= {name, name + OVERLAY}
        found.append(name)
    return found


def write(out: Path, name: str, image: np.ndarray, mask: np.ndarray, labels: Labels) -> Written:
    """Write a mask and the image under its colours to `out`. Raises RunError."""
    written = Written(str(out / f"{name}.png"), str(out / f"{name}{OVERLAY}.png"))
    try:
        answers.make(out)
        files.write(Path(written.mask), index_png(mask, labels.classes))
        files.write(Path(written.overlay), as_png(over(image, mask, labels.classes)))
    except OSError as error:
        raise RunError(
            f"{out} cannot be written ({files.reason(error)}): name another folder by --out"
        ) from error
    return written
