"""One class for every sound, told from its samples, as VATT's tower of waveforms does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from vitrail.data.cache import Pixels
from vitrail.data.hearing import Wanted
from vitrail.data.labels import Labels
from vitrail.data.opening import open_sounds
from vitrail.data.sound_waves import SoundWaves, WaveBatches
from vitrail.data.source import Kind, Source
from vitrail.engines.served import serve
from vitrail.errors import ConfigError
from vitrail.layers.normal import Normal
from vitrail.models import Backbone
from vitrail.models.trunk.backbone import input_kind, input_words
from vitrail.report.scores import Baseline
from vitrail.report.spectrograms import Heard, spectrograms
from vitrail.tasks.audio import Audio
from vitrail.tasks.baselines import Features
from vitrail.tasks.task import Mistaken, Order, Outputs, each_once, in_order, shuffled
from vitrail.tasks.worst import Judged, judged, worst_of

WATCHED = 32


@dataclass(frozen=True)
class Waveform(Audio):
    """Tells one of several classes of sounds, from their samples instead of spectrograms.

    Fields are those of `audio`; `bands` are those of the spectrograms that the report draws.

        vitrail train --set task=waveform --set model=RUN/recipe.json --set pretrained=RUN ...
        vitrail fit sounds/ --task audio --pretrained RUN
    """

    takes: ClassVar[Kind] = "waves"

    def source(self, spec: str | Path, *, progress: bool = False) -> Source:
        """List the sounds behind `spec` with their classes. Raises DataError."""
        return open_sounds(spec, Wanted(self.rate, self.seconds, self.bands, "waveform"))

    def model(self, backbone: Backbone) -> nn.Module:
        """Return the network itself, which takes waveforms. Raises ConfigError for others."""
        if input_kind(backbone.config) != "waves":
            raise ConfigError(
                f"model takes {input_words(backbone.config)}, task waveform takes waveforms: take "
                "model=vatt_bbs, or model=RUN/recipe.json of a run of clips with sounds"
            )
        return backbone

    def training(self, pixels: Pixels, normal: Normal, order: Order) -> WaveBatches:
        """Return shuffled batches of waveforms, augmented."""
        return shuffled(WaveBatches, order, normal, _sounds(pixels))

    def watching(self, pixels: Pixels, normal: Normal) -> WaveBatches:
        """Return batches to judge by."""
        return in_order(WaveBatches, WATCHED, normal, _sounds(pixels))

    def judge(self, model: nn.Module, images: Pixels, normal: Normal, device: Any) -> Judged:
        """Ask a finished model about the test sounds, and keep its worst mistakes."""
        return judged(each_once(self, model, images, normal, device), images)

    def served(self, model: nn.Module, labels: Labels) -> nn.Module:
        """Return the model between samples and probabilities."""
        return serve(model, labels)

    def judged(self, outputs: Outputs, labels: Labels) -> Mapping[str, Any]:
        """Return what a classification tells, and spectrograms of the worst mistakes."""
        assert labels.hearing is not None
        names = labels.classes
        drawn = [
            Heard(
                one.key, labels.hearing.picture(one.shown), names[one.truth], names[one.guess],
                one.share,
            )
            for one in worst_of(outputs)
        ]  # fmt: skip
        return {**super().judged(outputs, labels), "chapters": spectrograms(drawn)}

    def against(
        self,
        train: Pixels,
        test: Pixels,
        outputs: Outputs,
        labels: Labels,
        features: Features | None = None,
    ) -> Sequence[Baseline]:
        """Return how a constant and small models do that see spectrograms."""
        shown = _Spectrograms.of(_sounds(train)), _Spectrograms.of(_sounds(test))
        return [
            one if one.constant else replace(one, name=f"{one.name} of the spectrogram")
            for one in super().against(*shown, outputs, labels)
        ]

    def mistakes(self, outputs: Outputs, labels: Labels, most: int) -> Sequence[Mistaken]:
        """Return none: the worst answers are drawn as spectrograms."""
        return []


class _Spectrograms(Pixels):
    """The spectrograms of sounds: `take` gives uint8 (n, bands, steps, 1)."""

    @classmethod
    def of(cls, sounds: SoundWaves) -> Pixels:
        """Return those of some sounds, which are computed when they are taken."""
        found = cls(sounds.part, sounds.hearing.image, 1, None)
        found.sounds = sounds
        return found

    sounds: SoundWaves

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        waves = self.sounds.take(indices)
        return np.stack([self.sounds.hearing.picture(wave) for wave in waves])[..., None]


def _sounds(pixels: Pixels) -> SoundWaves:
    assert isinstance(pixels, SoundWaves)
    return pixels
