"""Candidates that torch finds too slow, timed as exported, in the budget's engine.

At batch 1 an engine may be several times as fast as torch, and by how much depends on the model:
at 28x28 on 2 cores ResNets gain 3 to 7 times, CCTs 4, LeViTs 2 to 17. Exporting takes 2 to 8
seconds, so only a few are looked at, and none in a fit of less than some three minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from vitrail.data.labels import Labels
from vitrail.engines import engine, rivals
from vitrail.engines.apart import Apart
from vitrail.engines.onnx import export_onnx, synthetic
from vitrail.errors import ExportError, RunError
from vitrail.measure.latency import Latency, remembered
from vitrail.models import create
from vitrail.models.trunk.backbone import input_kind
from vitrail.recipes.on_boxes import is_detector
from vitrail.recipes.on_maps import is_dense
from vitrail.run.budget import Budget
from vitrail.run.exported import PLAIN, measured
from vitrail.search.candidate import Candidate

# Beyond so many times the limit in torch no engine is expected to make up for it: on small images
# engines were 3 to 17 times as fast as torch at batch 1.
REACH = 12.0
# What a look is expected to take; the first imports the exporter and starts the engine as well.
FIRST_S, LOOK_S = 10.0, 6.0


def as_exported(
    candidates: Sequence[Candidate],
    budget: Budget,
    *,
    seconds: float,
    apart: Apart,
    say: Callable[[str], None] = lambda text: None,
) -> list[Candidate]:
    """Time candidates in their order as long as `seconds` allow; returns those that were timed,
    each with that latency.

    One that cannot be exported is passed over.
    """
    if budget.latency_s is None:
        return []
    found, expected, stop = [], FIRST_S, time.perf_counter() + seconds
    for one in candidates:
        if time.perf_counter() + expected > stop:
            break
        expected = LOOK_S
        say(f"timing {one.name} as exported")
        try:
            found.append(replace(one, latency_s=_exported(one, budget, apart).quickest_s))
        except (ExportError, RunError):
            continue
    return found


def _exported(one: Candidate, budget: Budget, apart: Apart) -> Latency:
    """Return the latency of the exported file in the budget's engine, remembered on this machine.

    It is that of the model alone: the resize is measured apart from it.
    """
    room = budget.room_s(one.image, one.channels)
    alone = replace(budget, pictures=None, latency_s=room)

    def measure() -> Latency:
        channels = one.channels
        names = tuple(map(str, range(one.model["classes"])))
        told = Labels(
            names, one.image, channels, (0.5,) * channels, (0.25,) * channels,
            maps=is_dense(one.config), takes=input_kind(one.config),  # pyright: ignore
            frames=getattr(one.config, "frames", 1), boxes=is_detector(one.config),
        )  # fmt: skip
        images = synthetic(told, 8)
        if budget.engine != PLAIN:
            apart.start()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            model = create(one.config).eval()
            export_onnx(model, told, path, images=images, config=one.model)
            return measured(model, path, told, images, alone, Path(folder), apart).latency

    asked = rivals(budget.engine)
    versions = {name: engine(name).version for name in asked}
    return remembered(
        {
            "exported": one.model,
            "engine": budget.engine,
            "of": versions,
            "threads": budget.threads,
            "quickest": True,
        },
        measure,
    )
