"""What `vitrail train` is asked for: settings, and a published recipe that they change."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vitrail.data.source import Source
from vitrail.errors import ConfigError
from vitrail.models import create
from vitrail.models.trunk.backbone import sized
from vitrail.recipes import recipe as recipes
from vitrail.recipes.base import require_adapting
from vitrail.recipes.build import changed
from vitrail.recipes.defaults import batch_size, default
from vitrail.recipes.paper import Published
from vitrail.recipes.recipe import Data, Recipe, amend
from vitrail.recipes.scaling import Hand, Scaled, asked, of_model, of_paper, scaled
from vitrail.run.workshop import Workshop
from vitrail.training.steps import Steps

EPOCHS = 30
# What is in the recipe already when the data are read.
DECIDED = ("model", "data", "pretrained", "base", "seed")


@dataclass(frozen=True)
class Wish:
    """What was asked for, checked before any work: `recipe` has all that needs no data.

    `settings` are the user's own, `told` what a published recipe changes of the model.
    """

    recipe: Recipe
    settings: tuple[str, ...]
    published: Published | None = None
    told: tuple[str, ...] = ()

    @property
    def given(self) -> frozenset[str]:
        """Return the paths that the user sets."""
        return frozenset(map(_path, self.settings))

    def command(self, folder: Path) -> str:
        """Return the command that trains this into a folder."""
        words = [f"--recipe {self.published.name}"] if self.published else []
        words += [f"--set {shlex.quote(setting)}" for setting in self.settings]
        return " ".join(["vitrail train", *words, f"--out {shlex.quote(str(folder))}"])


def wished(settings: Sequence[str]) -> Wish:
    """Apply the settings to an empty recipe: all of them are checked before any work.

    Raises ConfigError.
    """
    published, own = asked(settings)
    names = {_path(setting) for setting in own}
    for name, example in (("model", "model=cvt_13"), ("data", "data=photos/")):
        told = name in names or f"{name}.spec" in names or (name == "model" and "base" in names)
        if not told:
            raise ConfigError(f"{name} is not given: add --set {example}")
    family_first = [s for s in own if _path(s) == "model"]
    family_first += [s for s in own if _path(s) == "base"]
    rest = [s for s in own if s not in family_first]
    # Before its task is known it cannot be told what a model is for.
    wish, model = recipes.changed(Recipe({}, Data(""), Steps(1, 1)), family_first), Scaled((), ())
    if published is not None:
        model = of_model(published, wish.config, rest)
        task = amend(wish, [s for s in rest if _path(s) == "task"]).task
        rest = [*model.settings, *of_paper(published, several=task.several), *rest]
    wish = amend(wish, rest)
    made = changed(create(wish.config), wish.methods, wish.task)
    if wish.base is not None:
        require_adapting(wish.base, made)
    return Wish(wish, tuple(own), published, model.told)


def completed(wish: Wish, workshop: Workshop) -> tuple[Recipe, str]:
    """Add what the data decide: classes, channels, statistics, steps.

    Returns the recipe, and a sentence on how a published one was scaled, "" where there is none.
    Raises VitrailError.
    """
    split, early = workshop.split, wish.recipe
    channels = early.config.channels if early.pretrained else split.channels
    config = sized(
        early.config, classes=len(split.classes), channels=channels, image=_told(split.train.source)
    )
    create(config)
    data = workshop.data(early.data, tuple(config.image), channels, early.pretrained)
    images = len(split.train)
    batch = batch_size(images, workshop.device, config)
    recipe = default(
        config,
        data,
        images=images,
        total=EPOCHS * max(1, images // batch),
        seed=early.seed,
        pretrained=early.pretrained,
        device=workshop.device,
    )
    recipe = replace(recipe, base=early.base)
    rest = [s for s in wish.settings if _path(s).partition(".")[0] not in DECIDED]
    if wish.published is None:
        return amend(recipe, rest), ""
    hand = Hand(
        images,
        tuple(config.image),
        len(split.classes),
        early.steps.batch if "steps.batch" in wish.given else batch,
        early.steps.total if "steps.total" in wish.given else None,
        early.task.several,
        wish.given,
    )
    paper = scaled(wish.published, hand)
    told = "; ".join((*wish.told, *paper.told))
    said = f"recipe {wish.published.name}, {wish.published.source}: {told}"
    return amend(recipe, [*paper.settings, *rest]), said


def _told(source: Source) -> tuple[int, int] | None:
    """Return the size of an input that the data alone decide, of series and of waveforms."""
    if source.series is not None:
        return source.series.mask.shape[1], 1
    if source.kind == "waves" and source.hearing is not None:
        return 1, source.hearing.samples
    return None


def _path(setting: str) -> str:
    return setting.partition("=")[0].strip()
