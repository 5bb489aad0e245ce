"""What a published recipe is: a training as its authors ran it, in the words of `--set`.

Plain data without torch, so that recipes can be listed and compared at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

IMAGES = 1_281_167  # of ImageNet-1k's training part
COCO = 117_266  # of COCO's of 2017, those with a box


@dataclass(frozen=True)
class Published:
    """A training as published, on ImageNet-1k, or on COCO where there is a `head`.

    `settings` are fields of a Recipe at the published batch, by their paths. `epochs` end with the
    schedule's floor, at which `rest` more follow; `warmup` is in epochs too. `rate_by` is how the
    learning rate follows the batch: in proportion, or by the root; `rule` says whose that is.
    `drop_path` None leaves what the paper gives each variant, which the catalog has. `image` is
    the side in training. `radius_warmup`, in epochs, is that of an attack's radius where a recipe
    trains on attacked images. `unsure` are paths of which paper and code say different things, or
    nothing. `head` is the detector that the paper puts on its backbone, at its published width, and
    `backbone` what is changed of that by the fields of its Config.
    """

    name: str
    source: str
    epochs: int
    batch: int
    warmup: float
    settings: dict[str, Any]
    rule: str
    rest: int = 0
    drop_path: float | None = None
    image: int = 224
    rate_by: Literal["batch", "root"] = "batch"
    radius_warmup: float = 0.0
    unsure: tuple[str, ...] = ()
    note: str = ""
    head: str = ""
    backbone: dict[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """Return all that decides over the training, by path, in one flat mapping."""
        outer = {
            "epochs": self.epochs,
            "rest (epochs)": self.rest,
            "warmup (epochs)": round(self.warmup, 1),
            "steps.batch": self.batch,
            "rate by": self.rate_by,
            "image": self.image,
            "model.drop_path": "the variant's" if self.drop_path is None else self.drop_path,
        }
        if self.head:
            outer["head"] = self.head
            outer |= {f"model.{path}": value for path, value in self.backbone.items()}
        if self.attacks:
            outer["radius warmup (epochs)"] = self.radius_warmup
        return outer | dict(self.settings)

    @property
    def images(self) -> int:
        """Return how many images an epoch has."""
        return COCO if self.head else IMAGES

    @property
    def attacks(self) -> bool:
        """Return whether images are attacked in training."""
        return "objective.attack.radius" in self.settings


def epochs_of(steps: int, batch: int) -> float:
    """Return how many epochs of ImageNet-1k so many steps are."""
    return steps * batch / IMAGES


def differences(one: Published, other: Published) -> list[tuple[str, Any, Any]]:
    """Return path and both values of every field in which two recipes differ.

    A field that one of them lacks, such as one of another optimizer, is "-" there.
    """
    ours, theirs = one.fields(), other.fields()
    return [
        (path, ours.get(path, "-"), theirs.get(path, "-"))
        for path in {**ours, **theirs}
        if path not in ours or path not in theirs or ours[path] != theirs[path]
    ]
