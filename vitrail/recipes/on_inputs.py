"""What a model takes and what a task is about have to be the same: images, clips, series, scans,
sounds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.config import hints, kind_of, members, read_json
from vitrail.data.augment import Augment
from vitrail.errors import ConfigError
from vitrail.models import family_of, per_frame, vatt_clips, vatt_images, vatt_sounds
from vitrail.models.trunk.backbone import input_kind, input_words
from vitrail.recipes.base import WEIGHTS
from vitrail.tasks import (
    Audio,
    Classification,
    ImageText,
    MultiLabel,
    MultiModal,
    OpenVocabulary,
    Tasks,
    Waveform,
)
from vitrail.tasks.video import FRAMES, Video

# Series are shown as they are.
AS_THEY_ARE = Augment(flip=0.0, shift=0.0)
# Where to find a model of each kind.
_TAKE = {
    "images": "a model of images, as `vitrail list` shows them",
    "series": "model=ea_dc",
    "scans": "model=rangevit_s_nuscenes",
    "clips": "model=mvit_b_16x4, or any backbone of images for each frame",
    "triples": "model=vatt_bbs, or model=vatt_unified_medium",
    "waves": "model=vatt_bbs, or model=RUN/recipe.json of a run of clips with sounds",
}
# What a network of several kinds of input takes, where a task has one.
_OWN = {ImageText: "pairs", MultiModal: "triples", OpenVocabulary: "pairs"}


# Tasks of images with labels, for which a tower of clips will do.
LABELLED = (Classification, MultiLabel)


def require_taken(config: Any, task: Tasks) -> None:
    """Raise ConfigError for a model that takes something else than the task is about."""
    kind = input_kind(config)
    own = _OWN.get(type(task))
    # A backbone of images will look at each frame of a clip, of three towers one (`on_clips`).
    other = {"clips": ("images", "triples"), "waves": ("triples",)}.get(task.takes, ())
    taken = kind in (task.takes, *other) or (kind == "triples" and type(task) in LABELLED)
    if kind == own or (taken and not isinstance(task, MultiModal)):
        return
    if isinstance(task, MultiModal):
        raise ConfigError(
            f"model takes {input_words(config)}, this task trains on clips with sounds and "
            f"sentences: take {_TAKE['triples']}"
        )
    if kind == "triples" and isinstance(task, Audio):
        raise ConfigError(
            f"model takes {input_words(config)}, and its tower of sounds hears waveforms: add "
            "--set task=waveform"
        )
    what = f"{'a recipe' if task.takes == 'images' else 'this task'} trains on {task.takes}"
    raise ConfigError(f"model takes {input_words(config)}, {what}: take {_TAKE[task.takes]}")


def on_clips(config: Any, task: Video) -> Any:
    """Return the Config of a network of clips that shows as many frames as the task: a network of
    clips itself, the tower of clips of one of sounds and sentences too, else one that looks at each
    frame with the backbone. Raises ConfigError."""
    if input_kind(config) == "triples":
        config = vatt_clips.of(config)
    if input_kind(config) == "clips":
        return replace(config, frames=task.frames) if task.frames else config
    known = members(hints(per_frame.Config)["host"])
    if type(config) not in known:
        raise ConfigError(
            f"model {family_of(config)} does not look at frames: take {_TAKE['clips']}, of "
            f"{', '.join(sorted(map(kind_of, known)))}"
        )
    return per_frame.Config(config, frames=task.frames or FRAMES)


def on_images(config: Any) -> Any:
    """Return the Config of a network of images: itself, or the tower of clips of one of clips,
    sounds and sentences, for which a picture is a clip in which nothing moves."""
    return vatt_images.of(config) if input_kind(config) == "triples" else config


def on_waves(config: Any) -> Any:
    """Return the Config of a network of waveforms: itself, or the tower of sounds of one of clips,
    sounds and sentences. Raises ConfigError where that has none."""
    if input_kind(config) == "waves":
        return config
    try:
        return vatt_sounds.of(config)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def as_heard(task: Waveform, config: Any, reference: str | None) -> Waveform:
    """Return the task with the rate and length at which weights heard sounds, where those are a
    run's and nothing else is asked for."""
    run = Path(reference or "")
    result = (run.parent if run.name == WEIGHTS else run) / "result.json"
    if task.rate or task.seconds or reference is None or not result.is_file():
        return task
    rate = read_json(result, dict, remedy="restore it, or give another run").get("rate")
    if not isinstance(rate, int) or rate < 1:
        return task
    return replace(task, rate=rate, seconds=config.samples / rate)


def on_triples(config: Any, task: MultiModal) -> MultiModal:
    """Return the task with the frames and samples that a network sees and hears."""
    return replace(task, frames=config.frames, samples=config.inputs.samples)


def require_as_they_are(augment: Augment) -> None:
    """Raise ConfigError for an augmentation of images."""
    for name in Augment.__dataclass_fields__:
        if (value := getattr(augment, name)) != getattr(AS_THEY_ARE, name):
            raise ConfigError(
                f"augment.{name} is {value}: series are shown as they are, so leave it out"
            )
