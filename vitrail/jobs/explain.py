"""Pictures of what a finished run looked at in image files."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail import files
from vitrail.attribution import ASKED, explain, overlay, photograph
from vitrail.config import nearest
from vitrail.data.drawn import EXPLAINED, MADE_BY
from vitrail.data.labels import Labels
from vitrail.errors import ConfigError, DataError, RunError
from vitrail.jobs import explain_drawn
from vitrail.report.text import plain


@dataclass(frozen=True)
class Explained:
    """A run's answer for an image file, the class that was asked about, and the picture."""

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
    """Write a picture for each image file: the photograph, and what the model looked at in it.

    Only the run folder is read. Pictures are named by `picture_names` in the working directory, or
    `out` for a single image; none is overwritten. `about` names the class to ask for, by default
    the model's answer. Raises RunError, ConfigError, DataError, before anything is written where
    a file is missing.

    Examples:
        >>> [found] = vitrail.explain("run", ["photos/cat/000.png"], about="dog")
        >>> found.asked, found.method, found.picture
        ('dog', 'rollout', '000-explained.png')
    """
    from vitrail.run.folder import RunFolder

    model, _, labels = RunFolder.open(run).load_model()
    _require_explained(os.fspath(run), labels, method, about)
    if out is not None and len(paths) > 1:
        raise ConfigError(f"--out names one picture for {len(paths)} images: give one image")
    for path in paths:
        if not Path(path).is_file():
            what = "is not a file" if Path(path).exists() else "does not exist"
            raise DataError(f"image {path} {what}: give image files")
    targets = [out] if out else [Path(name) for name in picture_names(paths)]
    for target in targets:
        if target.exists():
            raise RunError(f"{target} exists and is not overwritten: name another by --out")
        RunFolder.check_writable(target.parent, "the picture in")
    found = []
    for path, target in zip(paths, targets, strict=True):
        found.append(_explain_file(model, labels, path, target, method, about))
        say(found[-1])
    return found


def _require_explained(run: str, labels: Labels, method: str, about: str | None) -> None:
    """Raise ConfigError for a run or a class that cannot be explained in this way."""
    if labels.maps or labels.boxes:
        explain_drawn.require_occlusion(method, run, labels)
    if labels.hearing is not None:
        raise ConfigError(
            f"{run} tells sounds, which are not explained so far: see the "
            "worst mistakes in its report.html"
        )
    if labels.takes != "images":
        raise ConfigError(
            f"{run} takes {labels.takes}, and what a network looks at is drawn for "
            "images alone: use `vitrail predict`"
        )
    if about is not None and about not in labels.classes:
        known = nearest(about, labels.classes)
        raise ConfigError(f"class {about!r} is unknown to the run: {known}")


def picture_names(paths: Sequence[str]) -> list[str]:
    """Return a name for each picture: NAME-explained.png, with as much of the folders before it
    as tells files of the same name apart, and a number where even that does not.

    a/0.jpg and b/0.jpg become a-0-explained.png and b-0-explained.png.
    """
    whole = [Path(os.path.abspath(path)) for path in paths]
    names, taken = [], set()
    for path in whole:
        alike = [other for other in whole if other.stem == path.stem]
        deepest = max(len(other.parts) for other in alike)
        # The fewest folders that tell apart as many of them as all folders would.
        folders = max(
            range(deepest - 1), key=lambda n: (len({_tail(other, n) for other in alike}), -n)
        )
        first = name = files.fitted(_tail(path, folders))
        number = 2
        while name in taken:
            name, number = f"{first}-{number}", number + 1
        taken.add(name)
        names.append(name)
    return [name + EXPLAINED for name in names]


def _tail(path: Path, folders: int) -> str:
    """Return the name without its suffix after that many of its folders."""
    parents = path.parts[1:-1]
    return "-".join((*parents[len(parents) - folders if folders else len(parents) :], path.stem))


def _explain_file(
    model: nn.Module, labels: Any, path: str, target: Path, method: str, about: str | None
) -> Explained:
    from vitrail.data.decode import BrokenImage, decode
    from vitrail.data.formats import read_file

    try:
        data = read_file(path)
        image = decode(data, labels.image, labels.channels, labels.ranges)
        shown = photograph(data)
    except BrokenImage as error:
        raise DataError(f"image {path} {error.reason}: give another file") from error
    except OSError as error:
        raise DataError(f"image {path} cannot be read ({error.strerror}): give another") from error
    x = labels.normalised(image[None])[0]
    if labels.maps or labels.boxes:
        seen = explain_drawn.asked(model, x, labels, about)
        heat, used = explain(seen.network, x, 0, explain_drawn.METHOD)
        names = labels.classes[seen.guess], labels.classes[seen.asked]
        one = Explained(path, names[0], seen.confidence, names[1], used, str(target))
        _draw(shown, heat, one, target)
        return one
    with torch.no_grad():
        shares = labels.probabilities(model(x[None])[0])
    guess = int(shares.argmax())
    asked = guess if about is None else labels.classes.index(about)
    heat, used = explain(model, x, asked, method)
    one = Explained(
        path, labels.classes[guess], float(shares[guess]), labels.classes[asked], used, str(target)
    )
    _draw(shown, heat, one, target)
    return one


def _draw(image: np.ndarray, heat: np.ndarray, one: Explained, target: Path) -> None:
    """Draw the photograph, beside it the map on it in the photograph's
    shape, and the map's scale.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from PIL import Image

    height, width = image.shape[:2]
    # Two pictures of the same shape, 3.3 inches wide, or 5 high where they are very tall.
    tall = min(5.0, 3.3 * height / width)
    figure = Figure(figsize=(7.4, tall + 1.0), layout="constrained")
    with Image.open(io.BytesIO(overlay(image, heat))) as glowing:
        pictures = image, np.asarray(glowing)
    titles = f"{one.guess}, {one.confidence:.0%} sure", f"{one.asked}: {one.method}"
    places = figure.subplots(1, 2)
    for axes, title, data in zip(places, titles, pictures, strict=True):
        axes.imshow(data, cmap="gray", vmin=0, vmax=255)
        # A class may be called $x$: that is a name, not mathematics.
        axes.set_title(plain(title), fontsize=11, parse_math=False)
        axes.axis("off")
    bar = figure.colorbar(ScalarMappable(cmap="inferno"), ax=places[1], fraction=0.046, pad=0.02)
    bar.set_ticks([0, 1], labels=["least", "most"])
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    figure.supxlabel(ASKED[one.method], fontsize=9, color="0.4")
    made = io.BytesIO()
    figure.savefig(made, dpi=130, format="png", metadata={"Software": MADE_BY})
    try:
        files.write(target, made.getvalue())
    except OSError as error:
        raise RunError(
            f"{target} cannot be written ({files.reason(error)}): name another by --out"
        ) from error
