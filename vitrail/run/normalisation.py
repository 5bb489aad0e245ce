"""How images were normalised for published weights: what their publisher says, then the catalog."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vitrail import checkpoint, files
from vitrail.checkpoint import FOLDER, hub
from vitrail.errors import CheckpointError
from vitrail.models import Identity, catalog
from vitrail.models.trunk.backbone import IMAGENET, input_kind
from vitrail.models.trunk.figures import inputs

# Pillow's numbers of ways to resize, as transformers writes them.
_WAYS: dict[Any, str] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
MOST = 1e6
_BESIDE = ("labels.json", "preprocessor_config.json", "config.json")


class Normalisation(NamedTuple):
    """Mean and deviation for each channel of values from 0 to 1, and how images are resized."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def normalisation(
    reference: str | os.PathLike | Mapping[str, Any], identity: Identity
) -> Normalisation:
    """Return what weights from `reference`, which are `identity`, take.

    First comes what is written beside the weights (timm's config.json, transformers'
    preprocessor_config.json, a run's labels.json), then what a training script kept in the file,
    what is known of weights of this name, and what the variant's published weights take. Weights
    of other than three channels, of which nobody says anything, take mean and deviation 0.5.
    Raises CheckpointError for weights whose inputs have no pixels.
    """
    if (kind := input_kind(identity.config)) == "series":
        file = "they are" if isinstance(reference, Mapping) else f"{os.fspath(reference)} is"
        raise CheckpointError(
            f"{file} {identity.name}, which takes {kind}: give weights of a model of images"
        )
    channels = identity.config.channels
    for mean, std, way in _said(reference, identity):
        if len(mean) == len(std) == channels and all(value > 0 for value in std):
            return Normalisation(mean, std, way)
    half = (0.5,) * channels
    return Normalisation(half, half, "bicubic")


Said = tuple[tuple[float, ...], tuple[float, ...], str]


def _said(reference: Any, identity: Identity) -> Iterator[Said]:
    """Return what is said of the weights, the most trustworthy first."""
    variant = catalog().get(identity.name)
    own = (variant.takes if variant else None) or IMAGENET
    if not isinstance(reference, Mapping):
        for record in _beside(os.fspath(reference)):
            if found := _read(record, own.interpolation):
                yield found
    about = _inside(reference)
    if "mean" in about and "std" in about:
        yield about["mean"], about["std"], str(about.get("interpolation", own.interpolation))
    if not isinstance(reference, Mapping) and (known := named(os.fspath(reference), identity)):
        yield known.mean, known.std, known.interpolation
    yield own.mean, own.std, own.interpolation


def named(reference: str, identity: Identity) -> Any:
    """Return what weights of this name take, as far as timm publishes some: of the longest name
    with which the file's begins; None where its tags disagree or there is none.

    Names of variants that the weights are not of say nothing: efficientnet-lite0 is what many call
    the file that timm calls tf_efficientnet_lite0.
    """
    words, others = _letters(reference.rstrip("/").rpartition("/")[2]), _others(identity)
    known = {key: v for key, v in inputs().items() if key.partition(".")[0] not in others}
    found = [key for key in known if words.startswith(_letters(key))]
    if found:
        return known[max(found, key=len)]
    kinds = {
        (kind.mean, kind.std): kind
        for key, kind in known.items()
        if words.startswith(_letters(key.partition(".")[0]))
    }
    return next(iter(kinds.values())) if len(kinds) == 1 else None


def _others(identity: Identity) -> set[str]:
    """Return timm's names of the variants that the weights are not of."""
    own = {identity.name, *identity.same}
    stems = {
        name: v.hub["timm"].rpartition("/")[2].partition(".")[0]
        for name, v in catalog().items()
        if "timm" in v.hub
    }
    return set(stems.values()) - {stems.get(name) for name in own}


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _inside(reference: Any) -> Mapping[str, Any]:
    if not isinstance(reference, Mapping) and not _is_file(os.fspath(reference)):
        return {}
    return checkpoint.contents(reference).about


def _is_file(reference: str) -> bool:
    return reference.startswith("hf-hub:") or Path(reference).exists()


def _beside(reference: str) -> Iterator[Mapping[str, Any]]:
    """Yield the records that libraries ship beside their weights."""
    if not _is_file(reference):
        return
    file = checkpoint.located(reference)
    if file.name not in FOLDER and not Path(reference).is_dir():
        return  # a file among others: what lies there may be of another
    for name in _BESIDE:
        path = file.with_name(name)
        if not path.is_file() and reference.startswith("hf-hub:"):
            path = hub.beside(reference, name) or path
        try:
            record = json.loads(files.read(path).decode("utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as e:
            raise CheckpointError(f"{path} cannot be read ({e}): fetch it again") from e
        if isinstance(record, dict):
            yield record


def _read(record: Mapping[str, Any], way: str) -> Said | None:
    """Return mean, deviation and interpolation of a record of
    vitrail's, timm's or transformers'.
    """
    inner = record.get("pretrained_cfg")
    record = inner if isinstance(inner, dict) else record
    mean = _numbers(record.get("mean", record.get("image_mean")))
    std = _numbers(record.get("std", record.get("image_std")))
    if record.get("do_normalize") is False:  # values from 0 to 1 as they are
        mean, std = (0.0,) * 3, (1.0,) * 3
    if mean is None or std is None:
        return None
    told = record.get("interpolation", record.get("resample"))
    if isinstance(told, str):
        return mean, std, told
    return mean, std, _WAYS.get(told, way) if isinstance(told, int) else way


def _numbers(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple) or not value:
        return None
    # No pixel has such values, and not every int becomes a float.
    if not all(type(v) in (int, float) and abs(v) < MOST for v in value):
        return None
    return tuple(map(float, value))
