"""How sounds become pictures: one rate, one length, log-mel spectrograms of 8 bits.

A picture has a row for each band, the highest first, and a column for each step of time. Loudness
is in decibels below the loudest sample of the clip, from -80 (black) to 0 (white).
`engines.sounds` has the same in a graph of ONNX.

Bands are triangles on the mel scale of HTK (Young et al., "The HTK Book"): 2595 log10(1 + f / 700).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

import numpy as np

from vitrail.errors import ConfigError

# Seconds of a window and of a step, and the most steps of a picture.
WINDOW_S, STEP_S, MOST_STEPS = 0.025, 0.01, 128
# Hertz between two lines of a spectrum, at most.
SPACING = 16
RANGE_DB = 80.0
FAINTEST = 1e-5
LEAST_RATE, MOST_RATE, MOST_S, MOST_BANDS = 1_000, 192_000, 60.0, 256


@dataclass(frozen=True)
class Wanted:
    """What the user wants to hear: hertz, seconds and bands; 0 lets the data decide.

    `form` is what a network is shown.
    """

    rate: int = 0
    seconds: float = 0.0
    bands: int = 64
    form: Literal["spectrogram", "waveform"] = "spectrogram"


@dataclass(frozen=True)
class Hearing:
    """What becomes of a sound: `samples` of it at `rate` hertz, in `bands` of the mel scale.

    `window` and `step` are in samples. Raises ConfigError for figures with which there is no
    picture.

    Examples:
        >>> ear = Hearing.of(rate=8_000, seconds=0.5)
        >>> ear.picture(np.zeros(4_000, np.float32)).shape
        (64, 50)
    """

    rate: int
    samples: int
    bands: int
    window: int
    step: int

    def __post_init__(self) -> None:
        if not LEAST_RATE <= self.rate <= MOST_RATE:
            raise ConfigError(f"rate is {self.rate}: give {LEAST_RATE:,} to {MOST_RATE:,} Hz")
        if not 0 < self.step <= self.window <= self.samples <= MOST_S * self.rate:
            raise ConfigError(
                f"sounds of {self.samples} samples at {self.rate} Hz in windows of {self.window} "
                f"and steps of {self.step} make no picture: give windows as long as a step, and "
                f"sounds from one window to {MOST_S:g} s"
            )
        if not 1 <= self.bands <= MOST_BANDS or not self.mel.any(1).all():
            raise ConfigError(
                f"bands are {self.bands}: sounds at {self.rate} Hz have too few frequencies for "
                "so many, give 64 or fewer"
            )

    @classmethod
    def of(cls, *, rate: int, seconds: float, bands: int = 64) -> Self:
        """Return windows of 25 ms in steps of 10, or longer ones where these are over 128."""
        samples = round(rate * seconds)
        step = max(round(STEP_S * rate), -(-samples // MOST_STEPS))
        window = max(round(WINDOW_S * rate), step)
        return cls(rate, max(samples, window), bands, window, step)

    @property
    def steps(self) -> int:
        """Return the number of columns of a picture."""
        return -(-self.samples // self.step)

    @property
    def image(self) -> tuple[int, int]:
        """Return height and width of a picture."""
        return self.bands, self.steps

    @property
    def seconds(self) -> float:
        """Return how long a clip is, in seconds."""
        return self.samples / self.rate

    @property
    def edge(self) -> tuple[int, int]:
        """Return how many zeros go before and behind a clip, so that windows
        are centred on their steps.
        """
        more = (self.steps - 1) * self.step + self.window - self.samples
        return more // 2, more - more // 2

    @property
    def points(self) -> int:
        """Return the length of the Fourier transform."""
        return 1 << max(self.window - 1, self.rate // SPACING).bit_length()

    @property
    def weights(self) -> np.ndarray:
        """Return Hann's window, float64 (window,), scaled so that a full sine has the power 1."""
        hann = np.hanning(self.window + 2)[1:-1]
        return hann * 2 / hann.sum()

    @property
    def mel(self) -> np.ndarray:
        """Return the bands, lowest first, as weights of the spectrum's
        lines: float64 (bands, lines).
        """
        return _triangles(self.rate, self.points, self.bands)

    def clip(self, wave: np.ndarray) -> np.ndarray:
        """Return the middle of a sound float (n,), or the sound between zeros: (samples,)."""
        start = (len(wave) - self.samples) // 2
        if start >= 0:
            return wave[start : start + self.samples]
        return np.pad(wave, (-start, self.samples - len(wave) + start))

    def picture(self, wave: np.ndarray) -> np.ndarray:
        """Return the picture of a sound float (n,) at the rate: uint8 (bands, steps)."""
        clip = self.clip(wave).astype(np.float64)
        clip = clip / max(float(np.abs(clip).max()), FAINTEST)
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(clip, self.edge), self.window)
        lines = np.fft.rfft(frames[:: self.step] * self.weights, self.points)
        power = self.mel @ (lines.real**2 + lines.imag**2).T
        loud = 10 * np.log10(power + 10 ** (-RANGE_DB / 10 - 1))
        levels = (loud[::-1] + RANGE_DB) * (255 / RANGE_DB)
        return levels.clip(0, 255).round().astype(np.uint8)


@lru_cache(maxsize=16)
def _triangles(rate: int, points: int, bands: int) -> np.ndarray:
    lines = np.arange(points // 2 + 1) * (rate / points)
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (lines - low) / (middle - low), (high - lines) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))
