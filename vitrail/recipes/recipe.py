"""A recipe: model, data, augmentation, optimizer, schedule and seed, as one value.

`recipe.json` of a run folder is this value in JSON; the same recipe on the same machine gives
the same weights. Every field is reachable by `--set`: `optimizer=sgd`, `optimizer.lr=0.05`,
`model=cvt_13`, `model.dim=96`, `data=photos/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vitrail.config import kind_of, nearest, override, parse, read_json, to_json
from vitrail.data import box_batches
from vitrail.data.augment import Augment
from vitrail.data.captions import check_augment as check_mixing
from vitrail.data.clip_pixels import check_augment as check_clips
from vitrail.data.mask_batches import check_augment
from vitrail.data.sound_waves import check_augment as check_waves
from vitrail.data.split import Duplicates, check_rules
from vitrail.data.twins import LEVELS
from vitrail.errors import ConfigError
from vitrail.methods import Methods
from vitrail.models import config_from_json, config_in, config_json, identify, named, queried
from vitrail.models.trunk.backbone import sized
from vitrail.objectives import (
    BinaryCrossEntropy,
    BoxLoss,
    Contrastive,
    CrossEntropy,
    Distillation,
    FocalLovasz,
    MilNce,
    Objectives,
    PixelCrossEntropy,
    QueryLoss,
    SummedDistillation,
    Unlabelled,
)
from vitrail.recipes.base import settled, weights_of
from vitrail.recipes.on_boxes import on_boxes
from vitrail.recipes.on_inputs import (
    AS_THEY_ARE,
    LABELLED,
    as_heard,
    on_clips,
    on_images,
    on_triples,
    on_waves,
    require_as_they_are,
    require_taken,
)
from vitrail.recipes.on_maps import on_maps
from vitrail.recipes.with_text import path_of, with_text
from vitrail.tasks import (
    Audio,
    Classification,
    ImageText,
    Instances,
    Lidar,
    MultiModal,
    OpenVocabulary,
    Tasks,
    Video,
    Waveform,
)
from vitrail.tasks.audio import AUGMENT
from vitrail.training.optimizer import AdamW, Optimizer
from vitrail.training.schedule import Cosine, Schedules
from vitrail.training.steps import Steps

# Tasks of networks with a tower for words.
WORDED = (ImageText, MultiModal, OpenVocabulary)
# `parse` takes unions as well, which no type says yet.
AnyTask: Any = Tasks


@dataclass(frozen=True)
class Data:
    """What is learned from: source, parts, and how images become numbers.

    `spec` is a folder, table or built-in name; `val` and `test` are the fractions held back
    where the source has no such parts, None for what `vitrail.data.split.divide` takes: 0.15, and
    of many images no more than tell models apart; `mean` and `std` are per channel, in 0 to 1.
    `duplicates` says what becomes of copies of one picture: "group" keeps them on one side of the
    split, "keep" lets them fall anywhere, "drop" leaves out all but one; `threshold` is how far
    two copies may differ, in levels of 255.
    """

    spec: str
    group_by: str | None = None
    val: float | None = None
    test: float | None = None
    seed: int = 0
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    duplicates: Duplicates = "group"
    threshold: float = LEVELS

    def __post_init__(self) -> None:
        check_rules(self.group_by, self.val, self.test, self.duplicates)


@dataclass(frozen=True)
class Recipe:
    """A training, complete.

    `model` is `{"family": ..., fields of its Config}`; `pretrained` is the file or Hub
    reference whose weights it starts from, None for random ones; `head` says how its head starts
    then, "random" or "linear" as the linear model on the features that these weights give, and
    `keep_head` takes theirs along, which must tell as many classes. `methods` change the model, in
    their order; `task` says what it is for. `base` is the run folder or file that it starts from
    where the run is to store only what a method adds to it; it says what `pretrained` is then.
    """

    model: dict[str, Any]
    data: Data
    steps: Steps
    optimizer: Optimizer = field(default_factory=AdamW)
    schedule: Schedules = field(default_factory=Cosine)
    objective: Objectives = field(default_factory=CrossEntropy)
    augment: Augment = field(default_factory=Augment)
    seed: int = 0
    pretrained: str | None = None
    head: Literal["random", "linear"] = "random"
    task: Tasks = field(default_factory=Classification)
    methods: tuple[Methods, ...] = ()
    keep_head: bool = False
    base: str | None = None

    @property
    def config(self) -> Any:
        """Return the model's Config. Raises ConfigError."""
        config = config_from_json(self.model)
        require_taken(config, self.task)
        return config


def read(path: Path) -> Recipe:
    """Read the recipe in a JSON file. Raises RunError or ConfigError."""
    return from_json(read_json(Path(path), dict, remedy="restore it, or give another run folder"))


def from_json(value: Mapping[str, Any]) -> Recipe:
    """Return the recipe from its JSON; fields that only describe the run are left out."""
    known = {name: value[name] for name in value if name in Recipe.__dataclass_fields__}
    schedule, objective = known.get("schedule"), known.get("objective")
    if isinstance(schedule, Mapping):  # once it repeated steps.total, and there was one kind
        known["schedule"] = {
            "kind": "cosine", **{k: v for k, v in schedule.items() if k != "total"},
        }  # fmt: skip
    if isinstance(objective, Mapping) and "kind" not in objective:  # once there was one kind
        known["objective"] = {"kind": "cross_entropy", **objective}
    if "task" in known:
        known["task"] = task_of(known)
    return parse(Recipe, known)


def task_of(value: Mapping[str, Any]) -> Tasks:
    """Return the task of a recipe in JSON: classification where it names none, or no kind."""
    task = value.get("task", {})
    if isinstance(task, Mapping):  # once there was one kind
        task = {"kind": "classification", **task}
    return parse(AnyTask, task, "task")


def suited(task: Tasks) -> Objectives:
    """Return what is minimised for a task unless the recipe says otherwise."""
    if isinstance(task, ImageText):
        return Contrastive()
    if isinstance(task, MultiModal):
        return MilNce()
    if isinstance(task, Lidar):
        return FocalLovasz()
    if isinstance(task, OpenVocabulary):
        return QueryLoss()
    if task.maps:
        return PixelCrossEntropy()
    if task.boxes:
        return BoxLoss()
    return BinaryCrossEntropy() if task.several else CrossEntropy()


def _suits(objective: Objectives, task: Tasks) -> bool:
    """Return whether an objective minimises what a task is judged by."""
    own = (
        BinaryCrossEntropy, PixelCrossEntropy, BoxLoss, Contrastive, FocalLovasz, MilNce, QueryLoss,
    )  # fmt: skip
    if task.several or task.maps or task.boxes or isinstance(task, (*WORDED, Lidar)):
        return isinstance(objective, type(suited(task)))
    return not isinstance(objective, own)


def amend(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return the recipe with settings of the command line, checked to the last field.

    `model=NAME` takes a published variant, or the model of a JSON file such as a search's
    found.json, with the data's image size, channels and classes; `model.FIELD=VALUE` changes its
    Config; `base=RUN` takes a trained backbone, and its Config where there is none yet; `data=SPEC`
    is short for `data.spec=SPEC`. Another task brings the objective that suits it, that of masks a
    head of maps on a backbone, that of boxes a detector, and that of sentences a text tower beside
    it; for sounds spectrograms are moved and no more. Raises ConfigError, also for an objective
    that does not suit.
    """
    return checked(changed(recipe, settings))


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Do as `amend`, without asking whether objective and task suit each other.

    Raises ConfigError.
    """
    for setting in sorted(settings, key=lambda one: not _names_task(one)):
        path, equals, text = (part.strip() for part in setting.partition("="))
        if equals and path == "data" and not text.startswith("{"):
            recipe = override(recipe, [f"data.spec={text}"])
        elif equals and path == "model" and not text.startswith("{"):
            recipe = _towered(replace(recipe, model=_variant(recipe, text)))
        elif equals and path == "base":
            recipe = _based(recipe, text)
        elif equals and path.startswith("model."):
            field_path = path_of(recipe.config, path.removeprefix("model."))
            config = override(recipe.config, [f"{field_path}={text}"])
            recipe = replace(recipe, model=to_json(config_json(config)))
        else:
            other = override(recipe, [setting])
            if type(other.task) is not type(recipe.task):
                augment = AUGMENT if isinstance(other.task, Audio) else other.augment
                other = replace(other, objective=suited(other.task), augment=augment)
                other = _towered(other)
                if other.task.takes == "series":
                    other = replace(other, augment=AS_THEY_ARE)
            recipe = other
    return recipe


def checked(recipe: Recipe) -> Recipe:
    """Return a recipe whose head learns from labels. Raises ConfigError for any other."""
    if isinstance(recipe.objective, Unlabelled):
        name = kind_of(type(recipe.objective)).replace("_", "")
        raise ConfigError(
            f"objective {name} learns without labels, and no head learns by it: run `vitrail "
            f"pretrain PICTURES --method {name}`, then fit with --pretrained and its folder"
        )
    _require_augment(recipe)
    if isinstance(recipe.task, WORDED):
        _require_pairs(recipe)
    if recipe.model:
        recipe = _on_task(recipe)
    if not _suits(recipe.objective, recipe.task):
        task, objective = (kind_of(type(one)) for one in (recipe.task, recipe.objective))
        raise ConfigError(
            f"objective {objective} is not for task {task}: set objective="
            f"{kind_of(type(suited(recipe.task)))}, or leave it out"
        )
    if recipe.base is not None and recipe.pretrained != weights_of(recipe.base):
        raise ConfigError(
            f"base {recipe.base} and pretrained {recipe.pretrained} both say where to start: give "
            "one of them"
        )
    objective = recipe.objective
    taught = isinstance(objective, Distillation | SummedDistillation)
    if taught and not (objective.teacher or getattr(objective, "average", 0)):
        raise ConfigError(
            "objective.teacher is not given: add --set objective.teacher=RUN, a file of weights or "
            "the name of a published variant; or objective.average=0.99 to learn from its own "
            "average"
        )
    return recipe


def _require_augment(recipe: Recipe) -> None:
    """Raise ConfigError for an augmentation that does not go with the task."""
    task, augment = recipe.task, recipe.augment
    if task.maps:
        check_augment(augment)
    if task.takes == "series":
        require_as_they_are(augment)
    if isinstance(task, Video | MultiModal):
        check_clips(augment)
    if isinstance(task, Waveform):
        check_waves(augment)
    if task.boxes:
        box_batches.check_augment(augment)


def _on_task(recipe: Recipe) -> Recipe:
    """Return a recipe whose model answers as the task wants it, and whose task knows the model."""
    task = recipe.task
    if isinstance(task, MultiModal):
        return replace(recipe, task=on_triples(recipe.config, task))
    if isinstance(task, Video):
        config = on_clips(recipe.config, task)
        task = replace(task, frames=config.frames)
    elif isinstance(task, Waveform):
        config = on_waves(recipe.config)
        task = as_heard(task, config, recipe.pretrained)
    elif task.maps:
        config = on_maps(recipe.config)
    elif task.boxes and not isinstance(task, OpenVocabulary):
        config = on_boxes(recipe.config, outlines=isinstance(task, Instances))
    elif type(task) in LABELLED:
        config = on_images(recipe.config)
    else:  # of other tasks nothing depends on the model, which is not read yet
        return recipe
    return replace(recipe, model=to_json(config_json(config)), task=task)


def _require_pairs(recipe: Recipe) -> None:
    """Raise ConfigError for what does not go with sentences."""
    if isinstance(recipe.task, ImageText):
        check_mixing(recipe.augment)
    if recipe.base is not None or recipe.methods:
        what = "methods" if recipe.methods else "base"
        raise ConfigError(
            f"{what} change a network of images, and task {kind_of(type(recipe.task))} has several "
            "towers: leave them out"
        )
    locked = isinstance(recipe.objective, Contrastive) and recipe.objective.locked
    if recipe.model and locked and recipe.pretrained is None:
        raise ConfigError(
            "a locked image tower learns nothing, and nothing says what it knows: add --set "
            "pretrained=FILE or RUN, or --set objective.locked=false"
        )


def _towered(recipe: Recipe) -> Recipe:
    """Return the recipe, with a text tower beside its model where sentences are asked for."""
    if not isinstance(recipe.task, ImageText) or not recipe.model:
        return recipe
    return replace(recipe, model=to_json(config_json(with_text(config_from_json(recipe.model)))))


def _names_task(setting: str) -> bool:
    return setting.partition("=")[0].strip() == "task"


def _based(recipe: Recipe, base: str) -> Recipe:
    """Start from a base, with its config unless the recipe has one. Raises VitrailError."""
    base = settled(base)
    weights = weights_of(base)
    model = recipe.model or to_json(config_json(identify(weights).config))
    return replace(recipe, base=base, pretrained=weights, model=model)


def _variant(recipe: Recipe, name: str) -> dict[str, Any]:
    known = {**named(), **queried()}
    if name.endswith(".json"):
        config = config_in(Path(name))
    elif name not in known:
        raise ConfigError(f"model: no variant {name!r}: {nearest(name, [*known])}")
    else:
        config = known[name].config
    old = recipe.model
    moved = sized(
        config,
        channels=old.get("channels", config.channels),
        classes=old.get("classes", getattr(config, "classes", 0)),
    )
    return to_json(config_json(moved))
