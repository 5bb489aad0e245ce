"""A run's file that takes sounds: its ONNX file behind the spectrogram of its labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vitrail import files
from vitrail.data.formats import BrokenImage
from vitrail.data.hearing import Hearing
from vitrail.data.labels import Labels
from vitrail.data.sounds import read_sound
from vitrail.data.split import Part
from vitrail.engines.sounds import check_hearing, hearing_model
from vitrail.errors import DataError, RunError
from vitrail.run.folder import RunFolder

# Sounds on which the file is compared.
COMPARED = 32


def write_hearing(run: RunFolder, labels: Labels, waves: Sequence[np.ndarray]) -> float | None:
    """Write the file of a run of sounds, accepted on some at its rate; None for a run of images.

    Returns the largest difference of a probability from that of the run's own file. Raises
    ExportError where spectrograms or answers differ.
    """
    if labels.hearing is None:
        return None
    try:
        with files.replacing(run.sound) as part:
            hearing_model(run.onnx, labels.hearing, part)
            return check_hearing(part, run.onnx, labels.hearing, waves)
    except OSError as error:
        raise RunError(
            f"{run.sound} cannot be written ({files.reason(error)}): free some space, then do it "
            "again"
        ) from error


def held_back_waves(held: Part) -> list[np.ndarray]:
    """Return some sounds of a part at the rate of all, none of images. Raises DataError."""
    hearing, waves = held.source.hearing, list[np.ndarray]()
    if hearing is None:
        return waves
    for row in held.rows[:COMPARED]:
        item = held.source.items[row]
        try:
            waves.append(read_sound(held.source.read(item)).at(hearing.rate))
        except (OSError, BrokenImage) as error:
            raise DataError(
                f"{item.key} of {held.source.origin} has changed since it was inspected: start "
                "again"
            ) from error
    return waves


def synthetic_waves(hearing: Hearing) -> list[np.ndarray]:
    """Make sounds to compare on where no real ones are at hand: tones that swell, under noise."""
    random, waves = np.random.default_rng(0), []
    for at in range(COMPARED):
        n = hearing.samples * (at + 4) // 8
        pitch = random.uniform(0.02, 0.4, 3)[:, None] * 2 * np.pi * np.arange(n)
        tones = (np.sin(pitch) * random.random((3, 1))).sum(0) * np.hanning(n)
        waves.append((tones + 0.1 * random.standard_normal(n)).astype(np.float32))
    return waves
