"""The contents of a report as plain values, filled by whoever did the work.

Nearly everything may be absent; the page leaves out whatever is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vitrail.config import to_json
from vitrail.data.source import NOUNS, Kind
from vitrail.report.ahead import Interval
from vitrail.report.chapter import Chapter
from vitrail.units import counted

# What a latency was measured on: the exported file, or the model in torch.
Clock = Literal["exported", "torch"]


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
        return "sound" if self.heard else NOUNS[self.takes][0]

    @property
    def items(self) -> str:
        """Return what several are called."""
        return "sounds" if self.heard else NOUNS[self.takes][1]

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
class Score:
    """Accuracy on the test split, in [0, 1], with its 95 % interval [low, high] over n images.

    `balanced` is the mean recall over classes, `top5` the share whose class is among the first
    five answers, `loss` the cross entropy in nats. Where another figure than accuracy says how good
    a model is, `name` is that figure's, and `accuracy` holds it; `figures` are further shares.
    """

    accuracy: float
    low: float
    high: float
    n: int
    balanced: float | None = None
    top5: float | None = None
    loss: float | None = None
    name: str = "accuracy"
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Return whether it is a share of right answers."""
        return self.name == "accuracy"

    def to_json(self) -> dict[str, Any]:
        """Return the fields for result.json, where the main figure stands under its own name."""
        return under_its_name(self, self.name)


@dataclass(frozen=True)
class Baseline:
    """A trivial or small model on the same n test images: its accuracies in [0, 1].

    `name` continues a sentence: "always 'healthy'" for a constant answer (`constant` is then
    true), "linear model on 16x16 pixels", "kernel model on pixels", "linear model on features".
    `ahead` is how much more accurate the run's model is, `ahead_balanced` the same for balanced
    accuracy, as `report.ahead.paired` and `paired_balanced` give them from both models' answers;
    without them the page falls back on the shares alone, whose interval is wider.
    """

    name: str
    accuracy: float
    balanced: float | None
    n: int
    constant: bool = False
    ahead: Interval | None = None
    ahead_balanced: Interval | None = None


@dataclass(frozen=True)
class PictureFacts:
    """The pictures of a latency, of `size` (height, width): what the model and the resize take.

    `model_s` is the median for an image that has the model's size, `resize_s` what is beyond it in
    that for a picture, both in seconds. `decode_s`, not part of the latency, is the time from a
    file of `format` to pixels, None where pictures are no files.
    """

    size: tuple[int, int]
    model_s: float
    resize_s: float
    decode_s: float | None = None
    format: str = ""


@dataclass(frozen=True)
class LatencyFacts:
    """Time for one image in seconds: median, 90th percentile, over n runs of `engine`.

    With `picture` it is that of such a picture, its resize to the model's size included.
    """

    p50_s: float
    p90_s: float
    n: int
    engine: str = "ONNX Runtime"
    threads: int = 1
    device: str = "CPU"
    picture: PictureFacts | None = None


@dataclass(frozen=True)
class EngineFacts:
    """An engine that took turns with the others: its time for one image in seconds.

    `counts` marks the engine whose latency is reported, `quickest_s` is its shortest run. `gain`
    is how many times as fast as ONNX Runtime it is, with a 95 % interval, `max_logit_difference`
    how far its logits are from the model's on held-back images; ONNX Runtime has neither.
    """

    name: str
    title: str
    p50_s: float
    p90_s: float
    n: int
    counts: bool
    quickest_s: float
    gain: tuple[float, float, float] | None = None
    max_logit_difference: float | None = None


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
class ClassRow:
    """One class of the test split: its n images, and precision, recall and F1 in [0, 1]."""

    name: str
    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CalibrationBin:
    """Test images whose confidence lies in [low, high): their number n, mean confidence and
    accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CalibrationFacts:
    """Expected calibration error in [0, 1], before and after dividing logits by the temperature.

    `bins` are those with the temperature, `bins_before` those without.
    """

    temperature: float
    ece_before: float
    ece_after: float
    bins: Sequence[CalibrationBin]
    bins_before: Sequence[CalibrationBin] = ()


@dataclass(frozen=True)
class RefusalFacts:
    """Answers below the probability `threshold` are "none of these".

    Of n test images the share `known` is told so, although they are of known classes; of images of
    other classes about the share `unknown` is, None where that was not measured.
    """

    threshold: float
    known: float
    n: int
    unknown: float | None = None


@dataclass(frozen=True)
class Mistake:
    """A test image that the model got wrong, as PNG, and another PNG of what it looked at.

    `shown` says what is bright on the second one.
    """

    png: bytes
    overlay: bytes | None
    truth: str
    guess: str
    confidence: float
    key: str
    shown: str = ""


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


def under_its_name(value: Score | Baseline, name: str) -> dict[str, Any]:
    """Return a score's fields in JSON, with the main figure under the `name` that it has."""
    fields = to_json(value)
    if name != "accuracy":
        return {name.replace(" ", "_"): fields.pop("accuracy"), **fields}
    implied = ("name", "figures") if isinstance(value, Score) else ()
    return {key: one for key, one in fields.items() if key not in implied}
