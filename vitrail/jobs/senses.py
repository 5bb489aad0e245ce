"""How a fit hears sounds and sees clips: as the weights do that it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitrail.errors import CheckpointError
from vitrail.models import identify
from vitrail.models.trunk.backbone import input_kind
from vitrail.recipes.on_inputs import as_heard, on_waves
from vitrail.recipes.recipe import read
from vitrail.tasks import MultiModal, Video, Waveform


def heard_as(pretrained: str | Path | None) -> list[str]:
    """Return the settings of a task of sounds: as waveforms, at the rate and length of the run,
    where `pretrained` is one of clips, sounds and sentences; else "task=audio".

    Raises ConfigError where that run has no tower of sounds.
    """
    plain, config = ["task=audio"], _config(pretrained)
    if config is None or input_kind(config) != "triples":
        return plain
    task = as_heard(Waveform(), on_waves(config), str(pretrained))
    return ["task=waveform", f"task.rate={task.rate}", f"task.seconds={task.seconds}"]


def seen_as(pretrained: str | Path | None) -> list[str]:
    """Return the settings of a task of clips: of as many frames as the network of clips sees whose
    weights `pretrained` are, as far apart as they were in its run; else "task=video"."""
    plain, config = ["task=video"], _config(pretrained)
    if config is None or input_kind(config) not in ("clips", "triples"):
        return plain
    frames = config.inputs.frames if input_kind(config) == "triples" else config.frames
    chosen, recipe = [*plain, f"task.frames={frames}"], Path(pretrained or "") / "recipe.json"
    if recipe.is_file() and isinstance(task := read(recipe).task, Video | MultiModal):
        chosen.append(f"task.stride={task.stride}")
    return chosen


# Of which tasks the weights that a fit starts from decide how they are shown what there is.
AS_WEIGHTS = {"audio": heard_as, "video": seen_as}


def _config(pretrained: str | Path | None) -> Any:
    """Return the Config of the weights; None where there are none, or not of one network."""
    if pretrained is None or pretrained == "hub":
        return None
    try:
        return identify(str(pretrained)).config
    except CheckpointError:  # a shelf of several, or what is refused when it is opened
        return None
