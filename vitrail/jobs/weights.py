"""Published weights for a budget: what there is, and a shelf that works without a network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from vitrail import files
from vitrail.checkpoint import FOLDER, hub
from vitrail.config import nearest, read_json
from vitrail.errors import CheckpointError, ConfigError
from vitrail.models import catalog, families, identify
from vitrail.models.trunk.figures import counted

# What was fetched, in a file that a shelf passes over.
NOTES = ".vitrail-weights.json"


@dataclass(frozen=True)
class Published:
    """Weights of a variant on the Hub: parameters, multiply-adds, bytes at 32 bits, published
    accuracy, the reference, and whether they are kept on this machine."""

    name: str
    family: str
    params: int
    macs: int
    size_bytes: int
    top1: float | None
    reference: str
    kept: bool


@dataclass(frozen=True)
class Fetched:
    """Weights on a shelf: the variant, its file and bytes, the licence that the Hub tells."""

    name: str
    path: str
    size_bytes: int
    licence: str
    reference: str


def published(
    *, family: str | None = None, macs: float = float("inf"), params: float = float("inf")
) -> list[Published]:
    """Return the weights that are published for models within limits, the smallest first.

    Nothing is asked of the network. Raises ConfigError for an unknown family.
    """
    if family is not None and family not in families():
        raise ConfigError(f"--family is {family!r}: {nearest(family, [*families()])}")
    found = []
    for variant in catalog().values():
        figures, reference = counted()[variant.name], next(iter(variant.hub.values()), None)
        fits = figures.macs <= macs and figures.params <= params
        if reference is None or not fits or family not in (None, variant.family):
            continue
        kept = hub.kept(reference, FOLDER) is not None
        found.append(
            Published(
                variant.name, variant.family, figures.params, figures.macs, 4 * figures.params,
                variant.top1, reference, kept,
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: one.macs)


def fetch(
    names: Sequence[str], shelf: Path, say: Callable[[str], None] = lambda text: None
) -> list[Fetched]:
    """Put the published weights of variants on a shelf, a folder that is made where it is missing.

    What lies there already is left as it is; each file is what its name says, or it is refused.
    Raises ConfigError for a name without published weights, and CheckpointError.
    """
    wanted = [(name, _reference(name)) for name in names]
    notes = shelf / NOTES
    remedy = "restore it, or remove it"
    with _writing(shelf):  # before anything is fetched
        shelf.mkdir(parents=True, exist_ok=True)
        there = notes.is_file()
    old = read_json(notes, dict, remedy=remedy, error=CheckpointError) if there else {}
    found = [_fetch(*one, shelf, say) for one in wanted]
    with _writing(shelf):
        files.write(notes, json.dumps(old | {f.path: asdict(f) for f in found}, indent=1))
    return found


@contextmanager
def _writing(shelf: Path) -> Iterator[None]:
    """Turn what the disk says of a shelf into CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"shelf {shelf} cannot be written ({files.reason(error)}): free some space, or name "
            "another folder"
        ) from error


def _reference(name: str) -> str:
    variant = catalog().get(name)
    if variant is None:
        raise ConfigError(f"no variant is called {name!r}: {nearest(name, [*catalog()])}")
    if not variant.hub:
        raise ConfigError(
            f"no weights of {name} are published that vitrail knows: see `vitrail weights`"
        )
    return next(iter(variant.hub.values()))


def _fetch(name: str, reference: str, shelf: Path, say: Callable[[str], None]) -> Fetched:
    stem = hub.parsed(reference)[0].rpartition("/")[2]
    there = next((p for p in shelf.glob(f"{stem}.*") if p.is_file()), None)
    if there is not None:
        say(f"{there} is there already")
        return Fetched(name, there.name, there.stat().st_size, "see its first download", reference)
    told = hub.facts(reference)
    say(f"fetching {name} from {reference}, licence {told.licence}")
    source = hub.fetched(reference, FOLDER)
    if source.name.endswith(".index.json"):
        raise CheckpointError(f"{reference} is of several files: give `fit --pretrained` a folder")
    if (known := identify(source, model=name)).name != name:
        raise CheckpointError(
            f"{reference} holds {known.name} in place of {name}: it was not taken"
        )
    path = shelf / f"{stem}{source.suffix}"
    with _writing(shelf), files.replacing(path) as part:
        shutil.copyfile(os.path.realpath(source), part)
    return Fetched(name, path.name, path.stat().st_size, told.licence, reference)
