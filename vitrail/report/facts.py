"""The contents of a report as plain values, filled by whoever did the work.

Nearly everything may be absent; the page leaves out whatever is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitrail.data.source import Kind, nouns
from vitrail.report.chapter import Chapter
from vitrail.report.scores import (
    Baseline,
    CalibrationFacts,
    ClassRow,
    Mistake,
    RefusalFacts,
    Score,
)
from vitrail.report.timings import Clock, EngineFacts, LatencyFacts
from vitrail.units import counted


@dataclass(frozen=True)
class ModelFacts:
    """The model that won: `macs` per image of size `image` = (height, width) in pixels.

    `title` is what people read, the name where it is empty; `config` its Config in JSON;
    `taught_by` says from whom it learned beside the labels.
    """

    name: str
    family: str
    params: int
    macs: int
    image: tuple[int, int]
    channels: int
    pretrained: str | None = None
    title: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    taught_by: str | None = None

    @property
    def shown(self) -> str:
        """Return the title, or the name where there is none."""
        return self.title or self.name


@dataclass(frozen=True)
class FindingFacts:
    """A finding of the data gate; `severity` is "error", "warning" or "info"."""

    kind: str
    severity: str
    message: str
    keys: Sequence[str] = ()


@dataclass(frozen=True)
class BrokenFile:
    """A file that was left out, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class DataFacts:
    """The data set: `parts` maps "train", "validation" and "test" to the images of each class.

    `origin` is what the user named; `split` says in a sentence how the parts were made. With
    `several` an image has any number of labels, and `images` how many images each part has; with
    `maps` these are the classes of its pixels, with `boxes` those of its objects. `takes` says what
    the data are: images, or others.
    """

    name: str
    origin: str
    classes: Sequence[str]
    parts: Mapping[str, Sequence[int]]
    findings: Sequence[FindingFacts] = ()
    broken: Sequence[BrokenFile] = ()
    split: str = ""
    several: bool = False
    images: Mapping[str, int] = field(default_factory=dict)
    maps: bool = False
    boxes: bool = False
    heard: str = ""
    takes: Kind = "images"

    @property
    def item(self) -> str:
        """Return what one of the data is called: an image, a sound, a series, a clip."""
        return nouns(self.takes, heard=bool(self.heard))[0]

    @property
    def items(self) -> str:
        """Return what several are called."""
        return nouns(self.takes, heard=bool(self.heard))[1]

    @property
    def noun(self) -> str:
        """Return what an image has: a class, or labels."""
        return "label" if self.several and not (self.maps or self.boxes) else "class"

    @property
    def kinds(self) -> str:
        """Return how many classes or labels there are, with the noun."""
        return counted(len(self.classes), self.noun, "classes" if self.noun == "class" else None)

    @property
    def same(self) -> str:
        """Return what an exported file and its model have in common on held-back images."""
        if self.maps:
            return "the masks are the same"
        if self.boxes:
            return "the boxes are the same"
        return f"the same {'labels' if self.several else 'class'} in all of them"

    def size(self, part: str) -> int:
        """Return how many images a part has."""
        return self.images[part] if part in self.images else sum(self.parts[part])


@dataclass(frozen=True)
class BudgetFacts:
    """The user's limits; None where there is no limit."""

    latency_s: float | None = None
    macs: int | None = None
    params: int | None = None
    time_s: float | None = None


@dataclass(frozen=True)
class CandidatePoint:
    """A model of the race: `accuracy` on the validation split at its last step, or None.

    `status` is "won", "finished", "features" (published weights under a linear model), "stopped",
    "over budget", "failed" or "not tried". `clock` says
    what `latency_s` was measured on; None means the exported file for the winner and torch for
    all others. `title` is what people read, the name where it is empty.
    """

    name: str
    family: str
    params: int
    macs: int
    latency_s: float | None
    accuracy: float | None
    steps: int
    status: str
    image: tuple[int, int] | None = None
    clock: Clock | None = None
    title: str = ""

    @property
    def shown(self) -> str:
        """Return the title, or the name where there is none."""
        return self.title or self.name

    @property
    def timed(self) -> Clock:
        """Return what the latency was measured on."""
        return self.clock or ("exported" if self.status == "won" else "torch")


@dataclass(frozen=True)
class CurvePoint:
    """One entry of the training's journal; what was not measured at this step is None."""

    step: int
    epoch: float
    train_loss: float | None = None
    val_score: float | None = None
    val_loss: float | None = None
    lr: float | None = None


@dataclass(frozen=True)
class ExportFacts:
    """Result of comparing the ONNX file with the model on n held-back images.

    `resize_inside` says whether the file resizes images itself.
    """

    n: int
    max_logit_difference: float
    size_bytes: int
    resize_inside: bool = False


@dataclass(frozen=True)
class Facts:
    """All facts that the page and the model card show.

    `baselines` were judged on the same test images as the model. `engines` took turns where one
    was asked for. `size_bytes` is that of the exported file (of the weights where there is none),
    `confusion` has a row per true class and a column per predicted one, `opening` are chapters
    that say how the model was found, `chapters` further parts of the page, `seconds` the time
    of each phase, `versions` those of the packages, `machine` such things as cpu, cores,
    memory_gib. `run` is the run folder as the user wrote it.
    """

    model: ModelFacts
    data: DataFacts
    command: str
    test: Score | None = None
    baselines: Sequence[Baseline] = ()
    latency: LatencyFacts | None = None
    engines: Sequence[EngineFacts] = ()
    size_bytes: int | None = None
    budget: BudgetFacts = BudgetFacts()
    candidates: Sequence[CandidatePoint] = ()
    curves: Sequence[CurvePoint] = ()
    per_class: Sequence[ClassRow] = ()
    confusion: Sequence[Sequence[int]] | None = None
    calibration: CalibrationFacts | None = None
    refusal: RefusalFacts | None = None
    mistakes: Sequence[Mistake] = ()
    opening: Sequence[Chapter] = ()
    chapters: Sequence[Chapter] = ()
    export: ExportFacts | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    date: str = ""
    run: str = ""

    @property
    def measure(self) -> str:
        """Return what says how good a model is: "accuracy", unless the test has another name."""
        return self.test.name if self.test else "accuracy"
