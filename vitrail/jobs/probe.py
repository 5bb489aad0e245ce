"""`vitrail probe`: what frozen features tell with few labels of each class.

Nothing is trained but a nearest-neighbour vote and a penalised linear fit, so the answer comes in
seconds, and features are kept beside the pixels for the next time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail import digests, files
from vitrail.config import read_json
from vitrail.data.builtin import cache_folder
from vitrail.data.cache import Pixels, pixels
from vitrail.data.gate import inspect
from vitrail.data.opening import open_source
from vitrail.data.split import divide
from vitrail.errors import ConfigError, DataError
from vitrail.layers.normal import Normal
from vitrail.models import identify, load
from vitrail.models.trunk.catalog import purpose
from vitrail.run.features import keep, kept
from vitrail.run.folder import RESTORE, RunFolder
from vitrail.run.frozen import Embedded
from vitrail.run.normalisation import normalisation
from vitrail.tasks.fewshot import Shots, few_shots

BATCH = 128


@dataclass(frozen=True)
class Probed:
    """What the features of weights tell of data: figures by shots, and of how many images.

    `strange` are classes of the data that a run of other classes did not learn.
    """

    weights: str
    data: str
    model: str
    width: int
    known: int
    asked: int
    shots: tuple[Shots, ...]
    strange: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain data."""
        return asdict(self)


def probe(
    weights: str | os.PathLike,
    data: str | os.PathLike,
    *,
    shots: Sequence[int] = (1, 5, 10),
    draws: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> Probed:
    """Tell classes of `data` by frozen features, from few labels of each class and from all.

    `weights` is a run of `pretrain`, `fit` or `train`, or a file of weights; `data` what `fit`
    takes, divided as it divides with `seed`. Labels are drawn from the training part, `draws` times
    for each of `shots`, and the validation part is told: the test part stays sealed. Raises
    VitrailError.

    Examples:
        >>> found = probe("run", "photos", shots=(1,), draws=2)
        >>> [one.shots for one in found.shots]
        [1, None]
    """
    if not shots or min(shots) < 1:
        raise ConfigError(f"--shots {','.join(map(str, shots))}: give numbers from 1, such as 1,5")
    if draws < 1:
        raise ConfigError(f"--draws {draws} is below 1: 5 is usual")
    model, name, normal = _opened(weights)
    source = open_source(os.fspath(data))
    inspection = inspect(source, progress=progress)
    split = divide(inspection, seed=seed)
    config = model.config
    if split.train.labels.ndim > 1:
        raise DataError(f"{source.origin} gives several labels an image: probe tells one each")
    parts = [
        pixels(part, tuple(config.image), config.channels, progress=progress)
        for part in (split.train, split.val)
    ]
    known, asked = (features(model, part, normal) for part in parts)
    found = few_shots(
        known, parts[0].labels, asked, parts[1].labels, shots=[*shots, None], draws=draws, seed=seed
    )
    learned = _learned(Path(weights))
    strange = tuple(one for one in split.classes if learned and one not in learned)
    return Probed(
        os.fspath(weights), source.name, name, known.shape[1], len(known), len(asked), tuple(found),
        strange,
    )  # fmt: skip


def _learned(run: Path) -> tuple[str, ...]:
    """Return the classes that a run tells, none of weights and of a pretraining."""
    if not (run / "recipe.json").is_file():
        return ()
    folder = RunFolder.open(run)
    return tuple(read_json(folder.labels, dict, remedy=RESTORE).get("classes", ()))


def _opened(weights: str | os.PathLike) -> tuple[Any, str, Normal]:
    """Return the model behind weights, how it is called, and mean and deviation of its images."""
    path = Path(weights)
    inside = path / "weights.safetensors"
    reference: str | os.PathLike = weights
    if (path / "recipe.json").is_file():
        RunFolder.open(path)
        reference = inside
    known = identify(reference)
    if (kind := purpose(known.config)) != "images":
        raise ConfigError(f"{weights} is {known.name}, a model of {kind}: give one of images")
    takes = normalisation(reference, known)
    source = None if known.source == "vitrail" else known.source
    model = load(known.config, reference, source=source, classes=0)
    return model, known.name, Normal(takes.mean, takes.std)


def features(model: nn.Module, images: Pixels, normal: Normal) -> np.ndarray:
    """Return what a model's head would see of images, float32 (N, width), in their order.

    They are kept in the cache, by the digests of weights and images.
    """
    told = f"{digests.of_tensors(model.state_dict())} {images.part.digest} {images.image} {normal}"
    name = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
    path = cache_folder() / "features" / f"{name}.npy"
    width: Any = model.width
    known = kept(path, (len(images), 4 * int(width)))
    if known is not None:
        return known
    network = Embedded(model).eval()
    rows = np.arange(len(images))
    parts = []
    with torch.inference_mode():
        for at in range(0, len(rows), BATCH):
            x = torch.from_numpy(images.take(rows[at : at + BATCH])).permute(0, 3, 1, 2).float()
            parts.append(network(normal.apply(x / 255)).float().numpy())
    found = np.concatenate(parts)
    try:
        keep(path, found)
    except OSError as error:
        raise DataError(
            f"the cache {path.parent} cannot be written ({files.reason(error)}): free some space, "
            "or name another folder in VITRAIL_CACHE"
        ) from error
    return found
