"""Files, bytes, images and arrays that a run is asked about, as pixels at the size of the run."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from vitrail.data.decode import BrokenImage, decode, decode_full, decode_image, read_file
from vitrail.data.hearing import Hearing
from vitrail.data.labels import Labels
from vitrail.data.picture import of_image
from vitrail.data.sounds import sound_picture, wave_of
from vitrail.jobs.asked import Picture, from_array


def decoded(picture: Picture, labels: Labels, *, whole: bool = False) -> np.ndarray | str:
    """Return a picture, or the spectrogram of a sound, as uint8 (H, W, C), or why there is none.

    A run of waveforms takes the sound itself, float32 (samples,).

    It has the size that the run takes, or with `whole` its own.
    """
    try:
        if labels.hearing is not None:
            return _heard(picture, labels.hearing, labels)
        return _seen(picture, labels, whole=whole)
    except BrokenImage as error:
        return error.reason
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _seen(picture: Picture, labels: Labels, *, whole: bool) -> np.ndarray:
    if isinstance(picture, np.ndarray):
        picture = from_array(picture)
    if isinstance(picture, Image.Image):
        width, height = of_image(picture, labels.ranges).image.size
        size = (height, width) if whole else labels.image
        return decode_image(picture, size, labels.channels, labels.ranges)
    data = _data(picture)
    if whole:
        return decode_full(data, labels.channels, labels.ranges)
    return decode(data, labels.image, labels.channels, labels.ranges)


def _heard(sound: Picture, hearing: Hearing, labels: Labels) -> np.ndarray:
    if isinstance(sound, np.ndarray | Image.Image):
        raise BrokenImage("not a sound", "cannot be read as a sound: give a path, or its bytes")
    if labels.takes == "waves":
        return wave_of(_data(sound), hearing)
    return sound_picture(_data(sound), hearing, labels.image)


def _data(given: str | os.PathLike | bytes | bytearray | memoryview) -> bytes:
    return read_file(given) if isinstance(given, (str, os.PathLike)) else bytes(given)
