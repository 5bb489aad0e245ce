"""What a network is shown of a part, whatever its items are: pictures, clips, series or sounds."""

from __future__ import annotations

from vitrail.data.cache import Pixels, pixels
from vitrail.data.cache import statistics as of_pixels
from vitrail.data.clip_pixels import clip_pixels
from vitrail.data.series_pixels import SeriesPixels, series_pixels
from vitrail.data.sound_waves import SoundWaves, sound_waves
from vitrail.data.split import Part

DIGITS = 6


def inputs(part: Part, image: tuple[int, int], channels: int, *, progress: bool = True) -> Pixels:
    """Return the items of a part as arrays of one size; see `cache.pixels` for pictures.

    Of series `image` is (steps, 1), and `channels` are features; of waveforms (1, samples), as the
    gate decided. Raises DataError.
    """
    if part.source.series is not None:
        return series_pixels(part, image[0])
    if part.source.clips is not None:
        return clip_pixels(part, image, progress=progress)
    if part.source.kind == "waves":
        return sound_waves(part, progress=progress)
    return pixels(part, image, channels, progress=progress)


def statistics(items: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each channel: of pictures in units of 0 to 1, to six digits
    behind the point, of series and waveforms in their own."""
    if isinstance(items, SeriesPixels | SoundWaves):
        return items.statistics()
    mean, std = of_pixels(items)
    return tuple(round(m, DIGITS) for m in mean), tuple(round(s, DIGITS) for s in std)
