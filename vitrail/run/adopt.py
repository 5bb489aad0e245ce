"""A run folder of published weights, so that what serves a fit serves them too."""

from __future__ import annotations

import os
from pathlib import Path

from vitrail.config import to_json
from vitrail.data.labels import Labels
from vitrail.errors import RunError
from vitrail.models import Backbone, Identity, config_json, config_name
from vitrail.models.trunk.backbone import input_kind
from vitrail.run.folder import RunFolder
from vitrail.run.normalisation import Normalisation, normalisation


def adopt(
    path: str | os.PathLike, model: Backbone, *, source: str, takes: Normalisation | None = None
) -> RunFolder:
    """Make a run folder of a model that was trained elsewhere; `source` says where it is from.

    Class names are ImageNet's where there are 1,000 classes, else numbers. Images are normalised
    as `takes` says, by default as is known of weights from `source`. Raises RunError when the
    folder exists, and for a model without classes or of other inputs than images.
    """
    config = model.config
    kind = input_kind(config)
    if not config.classes or kind != "images":
        what = f"takes {kind}" if config.classes else "has no classes"
        raise RunError(f"{source} {what}: a run folder is of a model that tells images' classes")
    takes = takes or normalisation(source, Identity(config_name(config), "vitrail", config))
    mean, std = takes.mean, takes.std
    labels = Labels(_class_names(config.classes), tuple(config.image), config.channels, mean, std)
    recipe = {"model": to_json(config_json(config)), "pretrained": str(source)}
    with RunFolder.create(path) as run:
        run.save_model(model, recipe, labels)
        run.write_text(run.readme, _adopted_card(config_name(config), source, labels))
    return run


def _class_names(classes: int) -> tuple[str, ...]:
    if classes != 1000:
        return tuple(f"class {i}" for i in range(classes))
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


def _adopted_card(name: str, source: str, labels: Labels) -> str:
    height, width = labels.image
    return (
        f"# {name}\n\n"
        f"Published weights, converted by vitrail from `{Path(source).name}`.\n\n"
        f"- {len(labels.classes)} classes, images of {height}x{width} with {labels.channels} "
        "channels\n"
        f"- normalised by mean {labels.mean} and standard deviation {labels.std}\n"
        "- not tested or calibrated here: the licence and the figures are those of its authors\n\n"
        "Use: `vitrail predict . image.jpg`\n"
    )
