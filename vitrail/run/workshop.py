"""Trains and evaluates recipes on one split; the test part is out of its reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitrail import heap
from vitrail.data.batches import Batches
from vitrail.data.cache import Pixels, pixels, statistics
from vitrail.data.split import Part, Split
from vitrail.errors import ConfigError
from vitrail.models import Backbone, create
from vitrail.recipes.recipe import Data, Recipe
from vitrail.search.shelf import start
from vitrail.train.device import Precision, open_fabric
from vitrail.train.evaluate import predict_logits
from vitrail.train.journal import Journal
from vitrail.train.loop import Outcome, train
from vitrail.train.objective import CrossEntropy

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OnStep = Callable[[int, float, float, float], None]


@dataclass(frozen=True)
class Score:
    """How a model does on a part: accuracy and mean cross entropy over n images."""

    accuracy: float
    loss: float
    n: int


class Trainer:
    """One split, one device, and the pixels of every image size used so far."""

    def __init__(self, split: Split, *, device: str = "auto", devices: int = 1) -> None:
        self.split = split
        fabric = open_fabric(device)
        self.device = str(fabric.device)
        self._device, self.devices = device, devices
        self._fabrics: dict[Precision, Fabric] = {"32-true": fabric}
        self._pixels: dict[tuple[str, tuple[int, int], int], Pixels] = {}
        self._starts: dict[str, dict[str, Tensor]] = {}
        self._statistics: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {}

    def data(self, base: Data, image: tuple[int, int], channels: int) -> Data:
        """`base` at an image size, with the channel statistics of the training part."""
        if channels not in self._statistics:
            self._statistics[channels] = statistics(self.pixels("train", image, channels))
        mean, std = self._statistics[channels]
        mean, std = tuple(round(m, 6) for m in mean), tuple(round(s, 6) for s in std)
        return replace(base, image=image, channels=channels, mean=mean, std=std)

    def pixels(
        self, part: str, image: tuple[int, int], channels: int, *, progress: bool = False
    ) -> Pixels:
        """The "train" or "val" images at a size, decoded on first use."""
        key = (part, image, channels)
        if key not in self._pixels:
            chosen: Part = {"train": self.split.train, "val": self.split.val}[part]
            self._pixels[key] = pixels(chosen, image, channels, progress=progress)
        return self._pixels[key]

    def model(self, recipe: Recipe) -> Backbone:
        """The untrained model of a recipe: the same weights every time."""
        torch.manual_seed(recipe.seed)
        if recipe.pretrained is None:
            return create(recipe.config)
        # Reading and naming a checkpoint takes seconds, and a race asks for it many times.
        key = json.dumps([recipe.model, recipe.pretrained, recipe.seed])
        if key not in self._starts:
            self._starts[key] = start(recipe.config, recipe.pretrained).state_dict()
        model = create(recipe.config)
        model.load_state_dict(self._starts[key])
        return model

    @property
    def speedup(self) -> float:
        """How many times faster all devices are thought to train than one."""
        return 1.0 if self.devices == 1 else 0.8 * self.devices

    def train(
        self,
        recipe: Recipe,
        folder: Path,
        until: int,
        on_step: OnStep | None = None,
        *,
        together: bool = False,
    ) -> Outcome:
        """Train from the folder's last snapshot, or from the start, up to step `until`.

        With `together` each of the devices trains in a process of its own, and this one takes
        over their snapshot; to start them takes some ten seconds.
        """
        data = recipe.data
        images = self.pixels("train", data.image, data.channels)
        if together and self.devices > 1:
            share = _Share(recipe, images, folder, until)
            fabric = _launcher(self._device, self.devices, recipe.steps.precision)
            fabric.launch(partial(_train_share, share=share))
        return _train(
            recipe, self.model(recipe), images, folder, until, self._opened(recipe), on_step=on_step
        )

    def logits(self, model: nn.Module, recipe: Recipe, images: Pixels) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and labels (N,) of all images in their order."""
        data = recipe.data
        batches = Batches(
            images, batch=256, mean=data.mean, std=data.std, shuffle=False, drop_last=False
        )
        return predict_logits(model.eval(), batches, device=self._opened(recipe))

    def validate(self, model: nn.Module, recipe: Recipe, limit: int | None = None) -> Score:
        """The score on the validation part, or on the first `limit` images of it.

        The part is in the order of its digests, so its beginning is a fair sample.
        """
        held = self.pixels("val", recipe.data.image, recipe.data.channels)
        if limit is not None and len(held) > limit:
            held = held.first(limit)
        logits, labels = self.logits(model, recipe, held)
        loss = nn.functional.cross_entropy(logits, labels).item()
        accuracy = (logits.argmax(1) == labels).float().mean().item()
        return Score(accuracy, loss, len(labels))

    def _opened(self, recipe: Recipe) -> Fabric:
        """The device in the recipe's precision."""
        precision = recipe.steps.precision
        if precision not in self._fabrics:
            self._fabrics[precision] = open_fabric(self._device, precision)
        return self._fabrics[precision]

    def better(
        self, outcome: Outcome, recipe: Recipe, limit: int | None = None
    ) -> tuple[Backbone, Score]:
        """The average of the weights or the last ones, whichever validates better.

        Early in a training the average lags behind. `limit` is as in `validate`.
        """
        models = [m for m in (outcome.ema_model, outcome.model) if m is not None]
        scored = [(self.validate(model, recipe, limit), model) for model in models]
        score, model = max(scored, key=lambda pair: (pair[0].accuracy, -pair[0].loss))
        if not isinstance(model, Backbone):
            raise TypeError(f"{type(model).__name__} is no Backbone")
        return model.eval(), score


@dataclass(frozen=True, eq=False)
class _Share:
    """What each of several processes is told."""

    recipe: Recipe
    images: Pixels
    folder: Path
    until: int


def _launcher(device: str, devices: int, precision: Precision) -> Fabric:
    from lightning_fabric import Fabric

    kind = device.partition(":")[0]
    try:
        return Fabric(accelerator=kind, devices=devices, strategy="ddp_spawn", precision=precision)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{devices} devices of {device!r} are not here ({reason})") from error


def _train_share(fabric: Fabric, *, share: _Share) -> None:
    heap.keep()
    recipe = share.recipe
    torch.manual_seed(recipe.seed)
    model = start(recipe.config, recipe.pretrained)
    _train(recipe, model, share.images, share.folder, share.until, fabric)


def _train(
    recipe: Recipe,
    model: Backbone,
    images: Pixels,
    folder: Path,
    until: int,
    fabric: Fabric,
    *,
    on_step: OnStep | None = None,
) -> Outcome:
    batches = Batches(
        images,
        batch=recipe.steps.batch // recipe.steps.accumulate,
        seed=recipe.seed,
        augment=recipe.augment,
        mean=recipe.data.mean,
        std=recipe.data.std,
    )
    return train(
        model,
        CrossEntropy(recipe.objective.smoothing),
        batches,
        recipe.optimizer,
        recipe.schedule,
        steps=recipe.steps,
        folder=folder,
        journal=Journal(folder / "metrics.jsonl"),
        until=until,
        device=fabric,
        resume=True,
        workers=1,
        on_step=on_step,
    )
