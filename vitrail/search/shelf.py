"""Candidates that start from published weights: a shelf of files, or the Hub when asked.

A file is known by its names and shapes alone. Its model is brought to another image size as
its paper does, and gets a new head for the classes at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.checkpoint import holds_weights
from vitrail.data.source import Kind
from vitrail.errors import CheckpointError, ConfigError
from vitrail.models import catalog, identify
from vitrail.models.trunk.backbone import sized
from vitrail.models.trunk.catalog import purpose
from vitrail.recipes.on_inputs import on_images, on_waves
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.clip_space import SIDES, begun
from vitrail.search.space import image_sizes

SUFFIXES = (
    ".safetensors", ".pth", ".pt", ".bin", ".npz", ".ckpt", ".msgpack", ".pkl", ".pth.tar",
    ".pt.tar",
)  # fmt: skip


def shelf(
    folder: Path,
    *,
    image_size: tuple[int, int],
    classes: int,
    takes: Kind = "images",
    frames: int = 1,
) -> tuple[list[Candidate], list[str]]:
    """Return candidates of the checkpoint files in a folder, and a sentence for each left out.

    Folders in it, as libraries save a model, are checkpoints too; so is `folder` itself, and a
    single file is a shelf of one. Of networks of clips, sounds and sentences they are the towers of
    sounds where the task `takes` waves, of (1, samples), else those of clips. Where it takes clips,
    of `frames`, weights of images look at each of these, or inflate into an MViT. Raises
    CheckpointError where it is missing or nothing is known.
    """
    found, left_out = [], []
    for file in _files(folder):
        if file.is_file() and not file.name.endswith(SUFFIXES):
            left_out.append(f"{file} does not end in {', '.join(SUFFIXES)}")
            continue
        try:
            known = identify(file)
        except CheckpointError as error:
            left_out.append(str(error))
            continue
        try:
            configs = _for_task(known.config, takes, frames)
        except ConfigError as error:
            left_out.append(f"{file} is {known.name}, {error}")
            continue
        for config in configs:
            found += _at_sizes(config, str(file), _sizes(config, image_size, takes), classes)
    if not found:
        reason = left_out[0] if left_out else "it is empty"
        raise CheckpointError(f"shelf {folder} has no checkpoint that can be used: {reason}")
    return _distinct(found), left_out


def _for_task(config: Any, takes: Kind, frames: int) -> list[Any]:
    """Return the Configs of networks that weights of `config` may begin. Raises ConfigError, which
    says what they are of instead."""
    kind = purpose(config)
    if takes == "clips" and kind in ("images", "clips", "triples"):
        return begun(config, frames)
    if kind == "triples" and takes in ("waves", "images"):
        return [(on_waves if takes == "waves" else on_images)(config)]
    if kind != takes:
        raise ConfigError(f"a model of {kind}: {takes} are fitted here")
    return [config]


def _sizes(config: Any, size: tuple[int, int], takes: Kind) -> list[tuple[int, int]]:
    """Return the sizes at which weights take part: some of the data's, and their own."""
    if takes == "images":
        return [*image_sizes(size), tuple(config.image)]
    return [*image_sizes(size)[:SIDES], tuple(config.image)] if takes == "clips" else [size]


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints on a shelf: files and folders, hidden ones passed over."""
    if folder.is_file() or holds_weights(folder):
        return [folder]
    if (folder / "recipe.json").is_file():  # a run: its weights
        return [folder / "weights.safetensors"]
    if not folder.is_dir():
        raise CheckpointError(
            f"shelf {folder} does not exist: give a file of weights, or a folder with some"
        )
    return sorted(file for file in folder.iterdir() if not file.name.startswith("."))


def published(*, image_size: tuple[int, int], classes: int) -> list[Candidate]:
    """Candidates of all variants with weights on the Hub; nothing is downloaded yet.

    At the largest size of the data, and at their own.
    """
    found = []
    for variant in catalog().values():
        sizes = [image_sizes(image_size)[-1], tuple(variant.config.image)]
        for reference in list(variant.hub.values())[:1]:
            found += _at_sizes(variant.config, reference, sizes, classes)
    return _distinct(found)


def _at_sizes(
    config: Any, reference: str, sizes: Sequence[tuple[int, int]], classes: int
) -> list[Candidate]:
    found = []
    for image in dict.fromkeys(sizes):
        moved = sized(config, image=image, channels=config.channels, classes=classes)
        figures = counted(moved)
        if figures is not None:
            one = candidate(moved, params=figures.params, macs=figures.macs, pretrained=reference)
            found.append(one)
    return found


def _distinct(found: Sequence[Candidate]) -> list[Candidate]:
    """Put numbers behind names that come twice: the same model from two files."""
    seen: Counter[str] = Counter()
    distinct = []
    for one in found:
        seen[one.name] += 1
        number = f"-{seen[one.name]}" if seen[one.name] > 1 else ""
        distinct.append(replace(one, name=one.name + number))
    return distinct
