"""What a user asks of a fit, complete."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from vitrail.config import nearest
from vitrail.data.opening import task_of_data
from vitrail.data.split import Duplicates
from vitrail.engines import ENGINES, rivals
from vitrail.errors import ConfigError
from vitrail.jobs.against import require_pretraining
from vitrail.jobs.hearing import heard_as
from vitrail.measure.machine import cores
from vitrail.methods import Flexivit
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.run.budget import Budget
from vitrail.run.finish import Asked
from vitrail.run.pictures import check_size, read_size
from vitrail.run.reading import Hardware
from vitrail.run.storage import completed, redacted
from vitrail.training.steps import Steps
from vitrail.units import parse_count, parse_duration, parse_latency

# Options that need no reading.
AS_THEY_ARE = (
    "device", "threads", "seed", "storage", "group_by", "duplicates", "devices", "engine",
)  # fmt: skip
# What the race decides, and no setting may.
DECIDED = ("model", "steps.total", "schedule.hold", "pretrained", "data.image", "data.channels")


@dataclass(frozen=True)
class Arguments:
    """What the user asked for, complete: it is kept in the run folder for `--resume`.

    `settings` change the recipe of every candidate. `input` is the (height, width) of the pictures
    whose latency is meant, None for the median of the data; with `flexible` every candidate learns
    at several patch sizes. With `against_scratch` a winner that began with a pretraining is trained
    from scratch as well.
    """

    data: str
    latency_s: float | None = None
    macs: int | None = None
    params: int | None = None
    time_s: float = 600.0
    device: str = "auto"
    threads: int = 1
    seed: int = 0
    pretrained: str | None = None
    storage: str | None = None
    group_by: str | None = None
    duplicates: Duplicates = "group"
    devices: int = 1
    engine: str = "onnxruntime"
    settings: tuple[str, ...] = ()
    command: str = ""
    input: tuple[int, int] | None = None
    flexible: bool = False
    add: tuple[str, ...] = ()
    against_scratch: bool = False

    def __post_init__(self) -> None:
        if self.input is not None:
            check_size(self.input)
        if self.flexible and self.engine != "onnxruntime":
            raise ConfigError(
                f"--engine {self.engine} does not go with --flexible, whose dial is measured in "
                "ONNX Runtime: leave one of them out"
            )

    @property
    def budget(self) -> Budget:
        """Return the limits of the model."""
        return Budget(
            self.latency_s, self.macs, self.params, self.threads, self.device, self.engine
        )

    @property
    def wish(self) -> Recipe:
        """Return an empty recipe with the settings, as far as they do not need the data."""
        base = Data(self.data, group_by=self.group_by, seed=self.seed, duplicates=self.duplicates)
        wish = amend(Recipe({}, base, Steps(1, 1), seed=self.seed), self.settings)
        if self.flexible and not any(isinstance(one, Flexivit) for one in wish.methods):
            wish = replace(wish, methods=(Flexivit(), *wish.methods))
        return wish

    @property
    def hardware(self) -> Hardware:
        """Return where to compute."""
        return Hardware(self.device, self.devices)

    @property
    def asked(self) -> Asked:
        """Return what the report repeats."""
        return Asked(self.command, self.budget, self.seed, self.time_s)

    @property
    def public(self) -> Arguments:
        """Return the arguments as they may be written down: the URL of a
        database without its password.
        """
        return replace(self, storage=self.storage and redacted(self.storage))

    def again(self, run: Path) -> str:
        """Return the command that goes on with this fit in the folder `run`."""
        return f"vitrail fit {shlex.quote(self.data)} --resume --out {shlex.quote(str(run))}"


class Words(TypedDict, total=False):
    """The options of `vitrail fit` as they are given; None is not given.

    `latency` is the longest time for one image as exported ("20ms"), in `engine` ("onnxruntime",
    "openvino", or "auto" for the faster), on `threads` CPU threads; `input` ("1920x1080", width
    first) the size of the pictures that it is for, by default the median of the data, whose resize
    is part of the latency; `macs` and `params` ("50M") are exact counts; `time` ("10m") is for
    everything. `pretrained` is a folder of checkpoint files, or "hub" to download published ones;
    `pretrain` names pictures without labels to pretrain on first, with a third of the time;
    `storage` the URL of a database that machines share. `teacher` is a run, a file of weights or a
    published variant whose answers all candidates learn beside the labels. `task` is "multilabel"
    where images have several labels, "segmentation" where each has a mask, "series" for time
    series, "video" for clips and "audio" for sounds, which the data tell as a rule, "lidar" for
    scans; one class each is the default. With `flexible` the weights learn many patch sizes, and
    the run gets a dial. `add` are JSON files whose models race as well, such as the found.json of a
    search. `against_scratch` trains the best network once more, after `time`, without the weights
    of a pretraining and for as long as pretraining and training took, and tells both.
    """

    latency: str | float | None
    input: str | None
    macs: str | int | None
    params: str | int | None
    time: str | float | None
    device: str | None
    threads: int | None
    seed: int | None
    pretrained: str | Path | None
    pretrain: str | Path | None
    group_by: str | None
    duplicates: str | None
    storage: str | None
    devices: int | None
    engine: str | None
    task: str | None
    flexible: bool | None
    teacher: str | Path | None
    add: str | Path | Sequence[str | Path] | None
    against_scratch: bool | None


def given(words: Words) -> dict[str, Any]:
    """Return the options that were given, by their names on the command line.

    Raises ConfigError for one that does not exist.
    """
    known = list(Words.__annotations__)
    for name in words:
        if name not in known:
            raise ConfigError(f"fit has no option {name!r}: {nearest(name, known)}")
    return {n.replace("_", "-"): words[n] for n in known if words.get(n) is not None}


def ask(
    data: str | Path, words: Words, settings: Sequence[str], out: str | Path | None
) -> Arguments:
    """Read and check what `fit` was asked; the task is told by the data where that is certain.

    Raises BudgetError and ConfigError.
    """
    options = given(words) | ({} if out is None else {"out": out})
    for name in ("threads", "devices"):
        value = words.get(name)
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}: give 1 or more")
    asked = amended(Arguments(data=str(data), threads=cores()), words)
    asked = replace(asked, storage=completed(asked.storage))
    own = [s for s in settings if s.partition("=")[0].strip() == "task"]
    task = words.get("task") or (None if own else task_of_data(data))
    if task and own:
        raise ConfigError(f"--task {task} and --set {own[0]} name the task twice: leave one out")
    taught = _taught(words.get("teacher"), settings)
    chosen = [f"task={task}"] if task else []
    if task == "audio":
        chosen = heard_as(words.get("pretrained"))
    asked = replace(asked, settings=(*chosen, *taught, *settings))
    for setting in settings:
        path = setting.partition("=")[0].strip()
        if any(path == name or path.startswith(f"{name}.") for name in DECIDED):
            raise ConfigError(
                f"--set {setting}: fit chooses {path} itself; use `vitrail train` to set it"
            )
    rivals(asked.engine)
    if asked.against_scratch:
        require_pretraining(asked.pretrained, words.get("pretrain") is not None)
    wish = asked.wish  # checked to the last field before any image is read
    _check_kind(asked, wish)
    if words.get("storage"):
        options["storage"] = redacted(str(words.get("storage")))
    options.pop("add", None)
    said = [
        f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}"
        for name, value in options.items()
    ]
    said += [f"--add {shlex.quote(str(file))}" for file in asked.add]
    said += [f"--set {shlex.quote(setting)}" for setting in settings]
    return replace(asked, command=" ".join(["vitrail fit", shlex.quote(str(data)), *said]))


def _check_kind(asked: Arguments, wish: Recipe) -> None:
    """Raise ConfigError for what is asked of images alone, where the task is about others."""
    others = "masks" if wish.task.maps else "boxes" if wish.task.boxes else wish.task.takes
    if others == "images":
        return
    if asked.engine != ENGINES[0]:
        raise ConfigError(
            f"--engine {asked.engine}: answers to {others} come by {ENGINES[0]} alone so far, "
            "leave it out"
        )
    if asked.pretrained and others != "waves":
        raise ConfigError(
            "--pretrained is for classes of images so far: leave it out, or begin a network with "
            "a file by `vitrail train --set pretrained=FILE`"
        )
    if wish.task.takes != "images" and (asked.input or asked.flexible):
        name = "input" if asked.input else "flexible"
        raise ConfigError(f"--{name} is about images, and the data are {others}: leave it out")


def _taught(teacher: str | Path | None, settings: Sequence[str]) -> list[str]:
    """Return the settings by which candidates learn from a teacher. Raises ConfigError."""
    if teacher is None:
        return []
    for setting in settings:
        if setting.partition("=")[0].strip() in ("objective", "objective.teacher"):
            raise ConfigError(
                f"--teacher {teacher} and --set {setting} say twice what is learned: leave one out"
            )
    if not str(teacher).strip():
        raise ConfigError("--teacher is empty: give a run folder, a file of weights or a variant")
    return ["objective=distillation", f"objective.teacher={teacher}"]


def amended(asked: Arguments, words: Words) -> Arguments:
    """Return the arguments with the options that were given."""
    changes: dict[str, Any] = {
        name: words.get(name)
        for name in (
            "device",
            "threads",
            "seed",
            "storage",
            "group_by",
            "duplicates",
            "devices",
            "engine",
            "flexible",
            "against_scratch",
        )
        if words.get(name) is not None
    }
    readers = {
        "latency": ("latency_s", parse_latency),
        "input": ("input", read_size),
        "macs": ("macs", parse_count),
        "params": ("params", parse_count),
        "time": ("time_s", parse_duration),
        "pretrained": ("pretrained", str),
    }
    if added := words.get("add"):
        files = (added,) if isinstance(added, str | Path) else added
        changes["add"] = tuple(str(file) for file in files)
    for name, (field, read) in readers.items():
        if words.get(name) is not None:
            changes[field] = read(words[name])
    return replace(asked, **changes)
