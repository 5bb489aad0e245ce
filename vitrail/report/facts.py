"""What a report tells: plain values, filled by whoever did the work.

Nearly everything may be absent; the page leaves out what it knows nothing of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelFacts:
    """The model that won: `macs` per image of size `image` = (height, width) in pixels."""

    name: str
    family: str
    params: int
    macs: int
    image: tuple[int, int]
    channels: int
    pretrained: str | None = None


@dataclass(frozen=True)
class FindingFacts:
    """One thing that the data gate noticed; `severity` is "error", "warning" or "info"."""

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
    """The images: `parts` maps "train", "validation" and "test" to the images of each class.

    `origin` is what the user named; `split` says in a sentence how the parts came about.
    """

    name: str
    origin: str
    classes: Sequence[str]
    parts: Mapping[str, Sequence[int]]
    findings: Sequence[FindingFacts] = ()
    broken: Sequence[BrokenFile] = ()
    split: str = ""


@dataclass(frozen=True)
class Score:
    """Accuracy on the test part, in [0, 1], with its 95 % interval [low, high] over n images."""

    accuracy: float
    low: float
    high: float
    n: int
    balanced: float | None = None
    top5: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class LatencyFacts:
    """Time for one image in seconds: median, 90th percentile, over n runs of `engine`."""

    p50_s: float
    p90_s: float
    n: int
    engine: str = "ONNX Runtime"
    threads: int = 1
    device: str = "CPU"


@dataclass(frozen=True)
class EngineFacts:
    """An engine that took turns with the others: its time for one image in seconds.

    `counts` is of the one whose latency is told, `quickest_s` its shortest run. `gain` is
    over ONNX Runtime, with its 95 % interval, `max_logit_difference` from the model on held-back
    images; of ONNX Runtime neither.
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
    """What the user allowed; None is no limit."""

    latency_s: float | None = None
    macs: int | None = None
    params: int | None = None
    time_s: float | None = None


@dataclass(frozen=True)
class CandidatePoint:
    """A model of the race: `accuracy` on the validation part at its last step, or None.

    `status` is "won", "finished", "stopped", "over budget", "failed" or "not tried".
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


@dataclass(frozen=True)
class CurvePoint:
    """One entry of the training's journal; what was not measured at this step is None."""

    step: int
    epoch: float
    train_loss: float | None = None
    val_accuracy: float | None = None
    val_loss: float | None = None
    lr: float | None = None


@dataclass(frozen=True)
class ClassRow:
    """How one class is recognised: n test images, shares in [0, 1]."""

    name: str
    n: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CalibrationBin:
    """Images whose confidence lies in [low, high): how many, how sure, how often right."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class CalibrationFacts:
    """How honest the probabilities are: the expected calibration error in [0, 1].

    `bins` are those with the temperature, `bins_before` those without.
    """

    temperature: float
    ece_before: float
    ece_after: float
    bins: Sequence[CalibrationBin]
    bins_before: Sequence[CalibrationBin] = ()


@dataclass(frozen=True)
class Mistake:
    """A test image that the model got wrong: two PNGs, the second with what it looked at, and
    what is bright on that."""

    png: bytes
    overlay: bytes | None
    truth: str
    guess: str
    confidence: float
    key: str
    shown: str = ""


@dataclass(frozen=True)
class ExportFacts:
    """What the check of the ONNX file found on n held-back images; whether it resizes itself."""

    n: int
    max_logit_difference: float
    size_bytes: int
    resize_inside: bool = False


@dataclass(frozen=True)
class Facts:
    """Everything that the page and the model card tell.

    `engines` took turns where one was asked for. `size_bytes` is that of the exported file (of
    the weights where there is none), `confusion` has a row per true class and a column per
    predicted one, `seconds` the time of each phase, `versions` those of the packages, `machine`
    such things as cpu, cores, memory_gib.
    """

    model: ModelFacts
    data: DataFacts
    command: str
    test: Score | None = None
    latency: LatencyFacts | None = None
    engines: Sequence[EngineFacts] = ()
    size_bytes: int | None = None
    budget: BudgetFacts = BudgetFacts()
    candidates: Sequence[CandidatePoint] = ()
    curves: Sequence[CurvePoint] = ()
    per_class: Sequence[ClassRow] = ()
    confusion: Sequence[Sequence[int]] | None = None
    calibration: CalibrationFacts | None = None
    mistakes: Sequence[Mistake] = ()
    export: ExportFacts | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, object] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    date: str = ""
