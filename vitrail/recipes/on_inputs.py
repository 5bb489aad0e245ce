"""What a model takes and what a task is about have to be the same: images, or time series."""

from __future__ import annotations

from typing import Any

from vitrail.data.augment import Augment
from vitrail.errors import ConfigError
from vitrail.models.trunk.backbone import input_kind, input_words
from vitrail.tasks import Tasks

# Series are shown as they are.
AS_THEY_ARE = Augment(flip=0.0, shift=0.0)
# Where to find a model of each kind.
_TAKE = {
    "images": "a model of images, as `vitrail list` shows them",
    "series": "model=ea_dc",
}


def require_taken(config: Any, task: Tasks) -> None:
    """Raise ConfigError for a model that takes something else than the task is about."""
    if input_kind(config) == task.takes:
        return
    what = f"{'a recipe' if task.takes == 'images' else 'this task'} trains on {task.takes}"
    raise ConfigError(f"model takes {input_words(config)}, {what}: take {_TAKE[task.takes]}")


def require_as_they_are(augment: Augment) -> None:
    """Raise ConfigError for an augmentation of images."""
    for name in Augment.__dataclass_fields__:
        if (value := getattr(augment, name)) != getattr(AS_THEY_ARE, name):
            raise ConfigError(
                f"augment.{name} is {value}: series are shown as they are, so leave it out"
            )
