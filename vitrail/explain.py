"""Pictures of what a finished run looked at in image files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail.attribution import ASKED, explain, overlay, png
from vitrail.errors import ConfigError, DataError, RunError


@dataclass(frozen=True)
class Explained:
    """What a run says of an image file, the class that was asked about, and the picture."""

    path: str
    guess: str
    confidence: float
    asked: str
    method: str
    picture: str


def explain_files(
    run: str | os.PathLike,
    paths: list[str],
    *,
    method: str = "auto",
    about: str | None = None,
    out: Path | None = None,
    say: Callable[[Explained], None] = lambda explained: None,
) -> list[Explained]:
    """Write a picture for each image file: the input, and beside it what the model looked at.

    Only the run folder is read. Pictures are NAME-explained.png in the working directory, or
    `out` for a single image; none is overwritten. `about` names the class to ask for, the
    model's answer if not given. Raises RunError, ConfigError, DataError.

    Examples:
        >>> [found] = vitrail.explain("run", ["photos/cat/000.png"], about="dog")
        >>> found.asked, found.method, found.picture
        ('dog', 'rollout', '000-explained.png')
    """
    from vitrail.run.folder import RunFolder

    model, _, labels = RunFolder.open(run).load_model()
    if about is not None and about not in labels.classes:
        raise ConfigError(f"class {about!r} is unknown to the run: {', '.join(labels.classes)}")
    if out is not None and len(paths) > 1:
        raise ConfigError(f"--out names one picture for {len(paths)} images: give one image")
    targets = [out or Path(f"{Path(path).stem}-explained.png") for path in paths]
    for target in targets:
        if target.exists():
            raise RunError(f"{target} exists and is not overwritten: name another by --out")
    found = []
    for path, target in zip(paths, targets, strict=True):
        found.append(_explain_file(model, labels, path, target, method, about))
        say(found[-1])
    return found


def _explain_file(
    model: nn.Module, labels: Any, path: str, target: Path, method: str, about: str | None
) -> Explained:
    from vitrail.data.decode import BrokenImage, decode

    try:
        image = decode(Path(path).read_bytes(), labels.image, labels.channels)
    except (OSError, BrokenImage) as error:
        raise DataError(f"{path} is no image that can be read ({error})") from error
    x = labels.normalised(image[None])[0]
    with torch.no_grad():
        shares = (model(x[None])[0] / labels.temperature).softmax(0)
    guess = int(shares.argmax())
    asked = guess if about is None else labels.classes.index(about)
    heat, used = explain(model, x, asked, method)
    one = Explained(
        path, labels.classes[guess], float(shares[guess]), labels.classes[asked], used, str(target)
    )
    _draw(image, heat, one, target)
    return one


def _draw(image: np.ndarray, heat: np.ndarray, one: Explained, target: Path) -> None:
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(7, 4), layout="constrained")
    titles = (f"{one.guess}, {one.confidence:.0%} sure", f"{one.asked}: {one.method}")
    for axes, title, data in zip(
        figure.subplots(1, 2), titles, (png(image), overlay(image, heat)), strict=True
    ):
        axes.imshow(np.asarray(Image.open(io.BytesIO(data))))
        axes.set_title(title, fontsize=11)
        axes.axis("off")
    figure.supxlabel(ASKED[one.method], fontsize=9, color="0.4")
    figure.savefig(target, dpi=130)
