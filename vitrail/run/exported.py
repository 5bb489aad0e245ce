"""A model as exported, by the clock: in ONNX Runtime, or in whichever engine was asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vitrail.data.labels import Labels
from vitrail.engines import ENGINES, engine, rivals
from vitrail.engines.apart import Apart
from vitrail.engines.onnx import compare, export_onnx
from vitrail.errors import ExportError, RunError
from vitrail.measure.latency import Latency, onnx_latency, ratio, summary
from vitrail.recipes.recipe import Recipe
from vitrail.report.timings import EngineFacts, LatencyFacts, PictureFacts
from vitrail.run.budget import Budget
from vitrail.run.deploy import Deployed, converted, logits, settle, timed
from vitrail.run.folder import RunFolder
from vitrail.run.pictures import Decoding
from vitrail.run.workshop import Workshop
from vitrail.units import seconds

PARITY_IMAGES = 512
# A map has as many answers as pixels, a detector as places, and they take the longer.
PARITY_MAPS = 128
# Before the training its weights mean nothing, so an engine's file is compared on fewer.
FEW = 64
# A file that is a little over in one measurement may have met a busy moment.
TRIES = 3
SECONDS = 1.0
PLAIN = ENGINES[0]


@dataclass(frozen=True)
class Timed:
    """The latency of one model by engine; that of `engine` counts against the budget.

    It is that of a picture as the budget has it; where such a picture is resized first, `alone`
    is that of an image that has the model's size. `gains` are of an engine over ONNX Runtime, as
    `measure.latency.ratio` gives them, `quickest` the seconds of the shortest run, `largest` the
    largest differences of a logit from the model in torch.
    """

    engine: str
    latencies: Mapping[str, Latency]
    gains: Mapping[str, tuple[float, float, float]]
    quickest: Mapping[str, float]
    largest: Mapping[str, float]
    alone: Timed | None = None

    @property
    def latency(self) -> Latency:
        return self.latencies[self.engine]

    @property
    def model_s(self) -> float:
        """Return the median for an image of the model's own size."""
        return (self.alone or self).latencies[self.engine].p50_s

    def held_s(self, budget: Budget) -> float:
        """Return the seconds that are held to the limit."""
        return self.model_s if budget.beyond else self.latency.p50_s

    @property
    def title(self) -> str:
        return engine(self.engine).title

    def facts(self, budget: Budget, decoding: Decoding | None = None) -> LatencyFacts:
        """Return the latency that counts, for the report, and what of it is the model's."""
        one, picture = self.latency, None
        if budget.pictures is not None:
            resize_s = max(0.0, one.p50_s - self.model_s)
            read = (decoding.seconds, decoding.format) if decoding else (None, "")
            shown = budget.pictures
            picture = PictureFacts(shown.size, self.model_s, resize_s, *read, shown.called)
        return LatencyFacts(
            one.p50_s, one.p90_s, one.n, self.title, budget.threads, picture=picture
        )

    def others(self, budget: Budget) -> list[EngineFacts]:
        """Return all engines that took turns, for the report; none where none was asked for."""
        if budget.engine == PLAIN:
            return []
        return [
            EngineFacts(
                name, engine(name).title, one.p50_s, one.p90_s, one.n, name == self.engine,
                self.quickest[name], self.gains.get(name), self.largest.get(name),
            )
            for name, one in self.latencies.items()
        ]  # fmt: skip

    def said(self, budget: Budget) -> str:
        """Say which engine the latency is of, and what the others took; nothing for the default."""
        if budget.engine == PLAIN:
            return ""
        rest = [
            f"{engine(name).title}: {seconds(one.p50_s)}{self._beaten(name)}"
            for name, one in self.latencies.items()
            if name != self.engine
        ]
        return f" in {self.title} ({', '.join(rest) or 'no other engine is installed'})"

    def _beaten(self, name: str) -> str:
        """Return what the interval says of another engine."""
        rival = self.engine if name == PLAIN else name
        _, low, high = self.gains[rival]
        if low <= 1 <= high:
            return ", the same within noise"
        if (low > 1) != (self.quickest[rival] < self.quickest[PLAIN]):
            return ", the machine too busy to compare them"
        return ", faster" if (low > 1) != (name == PLAIN) else ", slower"

    def settle(self, run: RunFolder, scratch: Path, budget: Budget, n: int) -> None:
        """Move the winner's own file and record into the run, whose weights are saved; the ONNX
        file was compared on `n` held-back images.
        """
        if self.engine == PLAIN:
            return
        chosen, found = engine(self.engine), self.alone or self
        made = Deployed(
            chosen.name, chosen.title, chosen.file,
            {run.onnx.name: found.latencies[PLAIN], chosen.file: found.latencies[self.engine]},
            {chosen.file: found.gains[chosen.name]},
            budget.threads, self.largest[chosen.name], f"{n} held-back images",
        )  # fmt: skip
        settle(run, chosen, made, scratch)


def labels(recipe: Recipe, workshop: Workshop) -> Labels:
    """Return what an exported file of the recipe has to know."""
    data, series = recipe.data, workshop.split.train.source.series
    return Labels(
        workshop.split.classes, data.image, data.channels, data.mean, data.std,
        ranges=workshop.split.train.source.ranges, several=recipe.task.several,
        maps=recipe.task.maps, boxes=recipe.task.boxes, takes=recipe.task.takes,
        hearing=workshop.split.train.source.hearing, features=series.features if series else (),
        **_shown(workshop),
    )  # fmt: skip


def _shown(workshop: Workshop) -> dict[str, Any]:
    """Return which frames of clips are shown."""
    clips = workshop.split.train.source.clips
    if clips is None:
        return {}
    return {"frames": clips.frames, "stride": clips.stride, "views": clips.views}


def held_back(recipe: Recipe, workshop: Workshop) -> np.ndarray:
    """Return validation images for the comparison of the exported file with the model."""
    held = workshop.pixels("val", recipe.data.image, recipe.data.channels)
    few = recipe.task.maps or recipe.task.boxes or recipe.task.takes == "clips"
    most = PARITY_MAPS if few else PARITY_IMAGES
    pace = max(1, len(held) // most)
    return held.take(np.arange(0, len(held), pace)[:most])


def exported_latency(
    recipe: Recipe, workshop: Workshop, run: RunFolder, *, budget: Budget, apart: Apart
) -> Timed:
    """Return the latency of the recipe's model as the engine will see it; weights do not matter.

    Raises ExportError when it cannot be exported.
    """
    if budget.engine != PLAIN:
        apart.start()
    with tempfile.TemporaryDirectory(dir=run.path) as folder:
        path = Path(folder) / "model.onnx"
        model = workshop.model(recipe).eval()
        told, held = labels(recipe, workshop), held_back(recipe, workshop)
        export_onnx(
            model, told, path, images=held, config=recipe.model,
            serve=recipe.task.served, agree=recipe.task.agreement,
        )  # fmt: skip
        return measured(model, path, told, held[:FEW], budget, Path(folder), apart)


def measured(
    model: nn.Module,
    onnx: Path,
    told: Labels,
    images: np.ndarray,
    budget: Budget,
    scratch: Path,
    apart: Apart,
) -> Timed:
    """Return the latencies of an ONNX file and of what other engines make of it, in `scratch`; when
    the one that counts is over the limit, the best of a few measurements.

    What an engine makes is compared with the model on `images`. Raises ExportError where the
    engine that was asked for cannot run the model; "auto" then goes without it.
    """
    tries: list[Timed] = []
    files, largest = {onnx: PLAIN}, {}
    if budget.engine != PLAIN:
        for name in rivals(budget.engine)[1:]:
            try:
                path = apart.call(converted, name, onnx, told, scratch)
                answers = iter(apart.call(logits, name, path, told, images))
                largest[name] = compare(
                    model,
                    told,
                    lambda batch, answers=answers: np.stack([next(answers) for _ in batch]),
                    images,
                    lambda n: None,
                )
                files[path] = name
            except (ExportError, RunError) as error:
                if budget.engine != "auto":
                    raise ExportError(f"{engine(name).title}: {error}") from error
    limit = budget.latency_s or inf
    while not tries or (tries[-1].held_s(budget) > limit and len(tries) < TRIES):
        tries.append(_turn(files, told, budget, largest, apart))
    return min(tries, key=lambda one: one.held_s(budget))


def _turn(
    files: Mapping[Path, str],
    told: Labels,
    budget: Budget,
    largest: Mapping[str, float],
    apart: Apart,
) -> Timed:
    """Measure the files once, by their engines, and say which engine counts."""
    size = budget.pictures.size if budget.pictures else told.image
    if len(files) == 1 and size == told.image:
        (onnx,) = files
        one = onnx_latency(onnx, threads=budget.threads, image=told.image)
        return Timed(PLAIN, {PLAIN: one}, {}, {PLAIN: one.p50_s}, {})
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (1, *sides, told.channels), np.uint8)
        for sides in dict.fromkeys((told.image, size))
    ]
    measure = timed if len(files) == 1 else partial(apart.call, timed)
    alone, *whole = (
        _one({name: found[path.name] for path, name in files.items()}, budget, largest)
        for found in measure(files, told, images, budget.threads, SECONDS)
    )
    return replace(whole[0], alone=alone) if whole else alone


def _one(
    spent: Mapping[str, Sequence[float]], budget: Budget, largest: Mapping[str, float]
) -> Timed:
    """Return what runs in turns say, by engine."""
    gains = {name: ratio(spent[PLAIN], spent[name]) for name in spent if name != PLAIN}
    latencies = {name: summary(times) for name, times in spent.items()}
    quickest = {name: min(times) for name, times in spent.items()}
    chosen = _counts(budget, latencies, gains, quickest)
    return Timed(chosen, latencies, gains, quickest, largest)


def _counts(
    budget: Budget,
    latencies: Mapping[str, Latency],
    gains: Mapping[str, tuple[float, float, float]],
    quickest: Mapping[str, float],
) -> str:
    """Return the engine that was asked for; with "auto" the fastest of those that are faster than
    ONNX Runtime beyond noise, else ONNX Runtime.

    Beside programs that keep all cores busy ONNX Runtime's threads wait for each other: a model of
    0.12 ms took 2.9, and one of 0.25 in OpenVINO 0.8. So the quickest runs have to agree.
    """
    if budget.engine != "auto":
        return budget.engine
    faster = [
        name for name, (_, low, _) in gains.items() if low > 1 and quickest[name] < quickest[PLAIN]
    ]
    return min(faster, key=lambda name: latencies[name].p50_s, default=PLAIN)
