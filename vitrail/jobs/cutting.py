"""What of a model stays: asked of its channels on a few training images, or of a coin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from vitrail import checkpoint
from vitrail.compression.choosing import Shape, at_random, chosen, magnitudes
from vitrail.compression.up_vit import candidates, importances
from vitrail.config import nearest
from vitrail.data.parallel import bar
from vitrail.engines import ENGINES, rivals
from vitrail.engines.apart import Apart
from vitrail.errors import ConfigError
from vitrail.jobs.limits import Clock, Limits
from vitrail.measure.machine import cores
from vitrail.models import Backbone
from vitrail.models.trunk.widths import Cut
from vitrail.objectives import SummedDistillation
from vitrail.recipes.recipe import Recipe
from vitrail.run.before import Before, model_json
from vitrail.run.budget import Budget
from vitrail.run.exported import exported_latency
from vitrail.run.folder import RunFolder
from vitrail.run.workshop import Workshop
from vitrail.training.schedule import Schedule

Method = Literal["up", "uvc", "magnitude", "random", "int8", "privit"]
INT8, UVC, PRIVIT, RANDOM = "int8", "uvc", "privit", "random"
# Training images of each class of which UP-ViTs ask what a channel is worth, and how many at once.
PROXY, AT_ONCE = 2, 16
# Passes over the images in which the rate of a tuning rises, at most; a tenth where it is short.
WARM = 2


@dataclass(frozen=True)
class Asked:
    """What the user asked for, complete: it is kept in the run folder for `--resume`."""

    run: str
    method: str
    macs: int | None = None
    params: int | None = None
    latency_s: float | None = None
    epochs: float | None = None
    seed: int = 0
    data: str | None = None
    command: str = ""
    max_drop: float | None = None
    gelus: int | None = None
    softmaxes: int | None = None
    engine: str = ENGINES[0]
    threads: int | None = None

    def __post_init__(self) -> None:
        rivals(self.engine)
        if self.engine != ENGINES[0] and self.method == INT8:
            raise ConfigError(
                f"--engine {self.engine}: --method int8 makes a file of ONNX Runtime; make others "
                f"by `vitrail export {self.run} --engine openvino --int8`"
            )
        if self.method not in get_args(Method):
            known = list(get_args(Method))
            raise ConfigError(f"--method {self.method!r} is unknown: {nearest(self.method, known)}")
        if self.max_drop is not None and self.method != INT8:
            raise ConfigError("--max-drop limits what int8 may lose: add --method int8")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise ConfigError(f"--max-drop is {self.max_drop:g}: give 0 to 100 percentage points")
        if self.method == INT8 and (self.limits != Limits() or self.epochs is not None):
            raise ConfigError(
                "--method int8 keeps all channels and trains nothing, so it takes no --macs, "
                "--params, --latency or --epochs: leave them out, or give it the folder of a "
                "smaller run"
            )
        if self.method == UVC and (
            self.macs is None or self.params is not None or self.latency_s is not None
        ):
            raise ConfigError(
                "--method uvc learns under a budget of multiply-adds: give --macs, and neither "
                "--params nor --latency"
            )
        if self.switched and self.method not in (PRIVIT, RANDOM):
            raise ConfigError(
                "--gelus and --softmaxes are budgets of --method privit, which learns what goes, "
                "or random, which draws it: add one of these"
            )
        if self.switched and self.limits != Limits():
            raise ConfigError(
                "--gelus and --softmaxes keep all channels, so that --macs, --params and --latency "
                "do not join them: leave these out"
            )
        if self.epochs is not None and not self.epochs > 0:
            raise ConfigError(f"--epochs is {self.epochs:g}: give a number above 0")

    @property
    def switched(self) -> bool:
        """Return whether GELUs and softmaxes are what becomes fewer."""
        return self.gelus is not None or self.softmaxes is not None

    @property
    def limits(self) -> Limits:
        """Return what the smaller model may cost."""
        return Limits(self.macs, self.params, self.latency_s)

    def budget(self, device: str) -> Budget:
        """Return the limits as the budget that a run is held to."""
        threads = self.threads or cores()
        return Budget(self.latency_s, self.macs, self.params, threads, device, self.engine)


@contextmanager
def clock(before: Before, workshop: Workshop, budget: Budget) -> Iterator[Clock]:
    """Give what tells the latency of a config as exported, in seconds, once for each."""
    with TemporaryDirectory() as folder, Apart() as apart:
        known: dict[str, float] = {}

        def timed(config: Any) -> float:
            recipe = replace(before.recipe, model=model_json(config), pretrained=None)
            key = str(recipe.model)
            if key not in known:
                known[key] = exported_latency(
                    recipe, workshop, RunFolder(folder), budget=budget, apart=apart
                ).held_s(budget)
            return known[key]

        yield timed


def choose(
    model: Backbone,
    shape: Shape,
    asked: Asked,
    images: Sequence[Tensor],
    folder: Path,
    *,
    shown: bool,
) -> Cut:
    """Return which channels of a model stay, by the method that is asked for.

    What channels are worth on some `images` is kept in `folder`, so that a stopped search goes on
    with the next ones.
    """
    if asked.method == "magnitude":
        return chosen(magnitudes(model), shape)
    if asked.method == "random":
        return chosen(at_random(model, asked.seed), shape)
    total: dict[str, Tensor] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with bar("what channels are worth", candidates(model) * len(images), shown=shown) as advance:
        for number, batch in enumerate(images):
            file = folder / f"worth-{number}.safetensors"
            if file.is_file():
                found = checkpoint.read(file)
                advance(candidates(model))
            else:
                found = importances(model, [batch], advance)
                checkpoint.save(file, found, metadata={"of": "importances"})
            for width, values in found.items():
                total[width] = values.double() + total.get(width, 0)
    return chosen(total, shape)


def proxy(before: Before, workshop: Workshop) -> list[Tensor]:
    """Return some training images of every class, normalised, in a few batches."""
    data = before.recipe.data
    images = workshop.pixels("train", data.image, data.channels)
    labels = np.asarray(images.labels)
    rows = np.sort(np.concatenate([
        np.flatnonzero(labels == one)[:PROXY] for one in range(len(before.labels.classes))
    ]))  # fmt: skip
    device = torch.device(workshop.device)
    return [
        before.labels.normalised(images.take(rows[at : at + AT_ONCE])).to(device)
        for at in range(0, len(rows), AT_ONCE)
    ]


def tuned_recipe(before: Before, config: Any, start: Path, asked: Asked, images: int) -> Recipe:
    """Return how the smaller model is trained: by the run's recipe, taught by what it was.

    UP-ViTs' fine-tuning: the labels plus the summed divergence from the teacher, and an average of
    the weights that follows once an epoch.
    """
    old = before.recipe
    per_epoch = max(1, images // old.steps.batch)
    total = old.steps.total
    if asked.epochs is not None:
        total = max(1, round(asked.epochs * per_epoch))
    steps = replace(old.steps, total=total, ema=0.999, ema_every=min(per_epoch, max(1, total // 4)))
    return replace(
        old,
        model=model_json(config),
        steps=steps,
        schedule=Schedule(min(WARM * per_epoch, total // 10)),
        objective=SummedDistillation(str(before.run.path)),
        pretrained=str(start),
        keep_head=True,
        seed=asked.seed,
    )
