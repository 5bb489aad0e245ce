"""The dial of a run: one set of weights at many costs, and which of them keeps a limit.

A model that was trained at many patch sizes, or with patches left out, runs at any of these
settings. `dial.json` holds what each was measured to reach and to take; whoever has a limit picks
by that table, without torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitrail.config import read_json, to_json
from vitrail.data.labels import Labels
from vitrail.errors import BudgetError, ConfigError, RunError
from vitrail.run import record
from vitrail.run.folder import RunFolder
from vitrail.units import counted, percent, seconds

NAME = "dial.json"
# The folder of its exported files.
FOLDER = "dial"
REMEDY = "restore it, or train again"


@dataclass(frozen=True)
class Setting:
    """Where a dial stands: pixels of a patch, None where there is one size only, and the share of
    the patches that stays."""

    patch: int | None = None
    keep: float = 1.0

    def __post_init__(self) -> None:
        if (self.patch is not None and self.patch < 1) or not 0 < self.keep <= 1:
            raise ConfigError(
                f"a setting has patches of {self.patch} pixels, {self.keep} of them kept: give 1 "
                "pixel or more, and a share in (0, 1]"
            )

    @property
    def name(self) -> str:
        """Return its name, as in files: "patch8", "patch8-keep60", "keep60"."""
        size = [] if self.patch is None else [f"patch{self.patch}"]
        share = [f"keep{100 * self.keep:g}"] if self.keep < 1 or not size else []
        return "-".join(size + share)


@dataclass(frozen=True)
class Point:
    """A setting with what it reaches and what it takes.

    `macs` are the multiply-adds of one image, `score` is on the validation images, with its 95 %
    interval [low, high]; `p50_s` and `p90_s` are the median and the 90th percentile of `n` runs of
    the exported file. Probabilities at this setting have a temperature and thresholds of their own,
    as in `Labels`.
    """

    setting: Setting
    macs: int
    score: float
    low: float
    high: float
    p50_s: float
    p90_s: float
    n: int
    temperature: float = 1.0
    threshold: float | None = None
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.score <= self.high <= 1:
            raise ConfigError(
                f"score {self.score} is not in [{self.low}, {self.high}], or not a share"
            )
        if not 0 < self.p50_s <= self.p90_s < math.inf:
            raise ConfigError(f"{self.p50_s} and {self.p90_s} are not times of one file")

    @property
    def name(self) -> str:
        """Return the name of its setting."""
        return self.setting.name

    def labels(self, labels: Labels) -> Labels:
        """Return a run's labels as they are at this setting."""
        return replace(
            labels, temperature=self.temperature, threshold=self.threshold,
            thresholds=self.thresholds,
        )  # fmt: skip


@dataclass(frozen=True)
class Dial:
    """The measured settings of a run, of which `chosen` is the name of the one that it stands at.

    `of` ties it to the run's weights and labels, `digest` is that of all else. Scores, called
    `measure`, are those of `images` validation images, by which the setting was chosen too; times
    are for one picture of `size` (height, width) on `threads` threads of `machine`. `files` are the
    digests of what `vitrail export` made, by name.
    """

    of: str
    chosen: str
    measure: str
    images: int
    size: tuple[int, int]
    threads: int
    points: tuple[Point, ...]
    machine: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        names = [point.name for point in self.points]
        if len({*names}) < len(names) or self.chosen not in names:
            raise ConfigError(f"settings {names} are not different ones with {self.chosen!r}")
        for file in self.files:
            if Path(file).name != file:
                raise ConfigError(f"{file!r} is not the name of a file")

    def __getitem__(self, name: str) -> Point:
        return next(point for point in self.points if point.name == name)

    @property
    def front(self) -> list[Point]:
        """Return the settings that no other beats in both score and time, the fastest first."""
        best: list[Point] = []
        for point in sorted(self.points, key=lambda p: (p.p50_s, -p.score)):
            if not best or point.score > best[-1].score:
                best.append(point)
        return best

    def under(self, limit_s: float) -> Point:
        """Return the best setting whose median is within a limit.

        Raises BudgetError, naming the closest, where none is.
        """
        kept = [point for point in self.front if point.p50_s <= limit_s]
        if not kept:
            least = self.front[0]
            raise BudgetError(
                f"no setting of the dial keeps {seconds(limit_s)}: the closest is {least.name}, "
                f"which takes {seconds(least.p50_s)}; allow that much"
            )
        return kept[-1]

    def at(self, place: float) -> Point:
        """Return the best setting under the limit at a place of the dial.

        At 0 that is the fastest setting's time, at 1 the most accurate one's, and in between it
        grows by equal ratios.
        """
        fast, good = self.front[0].p50_s, self.front[-1].p50_s
        return self.under(max(fast, fast * (good / fast) ** place * (1 + 1e-9)))

    def within(self, left_s: float) -> Point:
        """Return the best setting that is ready in what is left of a deadline nine times of ten;
        where none is, the fastest."""
        kept = [point for point in self.front if point.p90_s <= left_s]
        return kept[-1] if kept else self.front[0]

    def said(self, point: Point) -> str:
        """Say what a setting reaches and takes."""
        share = percent(point.score)
        return (
            f"{point.name}: {self.measure} {share} on {counted(self.images, 'validation image')}, "
            f"{seconds(point.p50_s)} for one picture on {counted(self.threads, 'thread')}"
        )


def read(run: RunFolder) -> Dial:
    """Return the dial of a run. Raises RunError where it has none, or one of other weights."""
    path = run.path / NAME
    if not path.is_file():
        raise RunError(
            f"{run.path} has no dial, as its weights run at one setting: train it with --flexible, "
            "or with methods=flexivit"
        )
    dial = read_json(path, Dial, remedy=REMEDY)
    if dial.of != record.digest(run):
        raise RunError(f"{path} is of other weights than the run: {REMEDY}")
    if dial.digest != _signed(dial).digest:
        raise RunError(f"{path} is damaged or was changed: {REMEDY}")
    return dial


def write(run: RunFolder, dial: Dial) -> None:
    """Write the dial of a run, tied to its weights and labels. Raises RunError."""
    run.write_json(run.path / NAME, to_json(_signed(replace(dial, of=record.digest(run)))))


def _signed(dial: Dial) -> Dial:
    """Return a dial with the digest of what it says."""
    text = json.dumps(to_json(replace(dial, digest="")), sort_keys=True)
    return replace(dial, digest=hashlib.sha256(text.encode()).hexdigest())


def file_of(run: RunFolder, dial: Dial, point: Point) -> Path | None:
    """Return the exported file of a setting, None where there is none.

    Raises RunError for one that was changed since.
    """
    name = f"{point.name}.onnx"
    if name not in dial.files:
        return None
    for part in (name, *_weights(dial.files)):
        path = run.path / FOLDER / part
        if not path.is_file() or record.digest_of(path) != dial.files[part]:
            raise RunError(
                f"{path} is missing or was changed: write it again by `vitrail export {run.path} "
                "--dial`"
            )
    return run.path / FOLDER / name


def _weights(files: Mapping[str, str]) -> list[str]:
    return [name for name in files if not name.endswith(".onnx")]
