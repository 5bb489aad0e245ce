"""How a fit hears sounds: as the weights do that it starts from."""

from __future__ import annotations

from pathlib import Path

from vitrail.errors import CheckpointError
from vitrail.models import identify
from vitrail.models.trunk.backbone import input_kind
from vitrail.recipes.on_inputs import as_heard, on_waves
from vitrail.tasks import Waveform


def heard_as(pretrained: str | Path | None) -> list[str]:
    """Return the settings of a task of sounds: as waveforms, at the rate and length of the run,
    where `pretrained` is one of clips, sounds and sentences; else "task=audio".

    Raises ConfigError where that run has no tower of sounds.
    """
    plain = ["task=audio"]
    if pretrained is None or pretrained == "hub":
        return plain
    try:
        config = identify(str(pretrained)).config
    except CheckpointError:  # a shelf of several, or what is refused when it is opened
        return plain
    if input_kind(config) != "triples":
        return plain
    task = as_heard(Waveform(), on_waves(config), str(pretrained))
    return ["task=waveform", f"task.rate={task.rate}", f"task.seconds={task.seconds}"]
