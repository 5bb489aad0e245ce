"""A published recipe at the data at hand: its rate by the batch, its epochs as steps.

Warm-up, rest and average take the shares of the training that they have in the paper, so that a
training that is cut short by `steps.total` keeps its shape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitrail.config import to_json
from vitrail.errors import ConfigError
from vitrail.models import config_json, resolve
from vitrail.recipes.on_boxes import is_detector, under
from vitrail.recipes.paper import Published
from vitrail.recipes.published import published
from vitrail.recipes.published.google import prior

# DeiT's code shifts images of at most so many pixels by 4 of 32 instead of cropping them.
TINY, SHIFT = 32, 4 / 32
SHORTEST, LONGEST = 0.8, 0.99999  # of an average's memory


@dataclass(frozen=True)
class Scaled:
    """Settings for a recipe, and in sentences what was changed of the published ones and why."""

    settings: tuple[str, ...]
    told: tuple[str, ...]


def asked(settings: Sequence[str]) -> tuple[Published | None, list[str]]:
    """Take `recipe=NAME` out of the settings. Raises ConfigError for a name that is not known."""
    names = [s.partition("=")[2].strip() for s in settings if _path(s) == "recipe"]
    if len(names) > 1:
        raise ConfigError(f"recipes {' and '.join(names)} are both asked for: give one")
    rest = [s for s in settings if _path(s) != "recipe"]
    return (published(names[0]) if names else None), rest


def of_model(recipe: Published, config: Any, settings: Sequence[str]) -> Scaled:
    """Return what a recipe changes of a model, where the user's settings do not."""
    given, changed, told = {_path(s) for s in settings}, [], []
    if recipe.head and not is_detector(config):
        headed = under(resolve(config, **recipe.backbone), recipe.head)
        changed.append(f"model={json.dumps(to_json(config_json(headed)))}")
        told.append(f"{recipe.head} on the model")
    if recipe.drop_path is not None and "model.drop_path" not in given:
        if hasattr(config, "drop_path"):
            changed.append(f"model.drop_path={recipe.drop_path}")
        elif recipe.drop_path:
            told.append(f"drop path {recipe.drop_path:g} is left out, which this model has not")
    usual = tuple(config.image) == (224, 224) or bool(recipe.head)
    if usual and recipe.image != 224 and "model.image" not in given:
        changed.append(f"model.image={recipe.image},{recipe.image}")
        told.append(f"images of {recipe.image} pixels")
    return Scaled(tuple(changed), tuple(told))


def of_paper(recipe: Published, *, several: bool = False) -> list[str]:
    """Return the published settings, without the loss where images have several labels."""
    return [
        f"{path}={_text(value)}"
        for path, value in recipe.settings.items()
        if not (several and path.startswith("objective"))
    ]


@dataclass(frozen=True)
class Hand:
    """What a recipe is scaled to: so many images of a size and classes, in batches and steps.

    `total` None takes the steps of the published epochs; `several` labels an image may have.
    `given` are the paths that the user sets, of which nothing is said.
    """

    images: int
    image: tuple[int, int]
    classes: int
    batch: int
    total: int | None = None
    several: bool = False
    given: frozenset[str] = frozenset()


def scaled(recipe: Published, hand: Hand) -> Scaled:
    """Return the settings of a recipe for the data at hand, and what was done to them."""
    epochs = recipe.epochs + recipe.rest
    total = hand.total or epochs * max(1, hand.images // hand.batch)
    changes = _of_time(recipe, hand, total) | _of_data(recipe, hand)
    told = [
        sentence
        for path, (_, sentence) in changes.items()
        if sentence and not any(path == one or path.startswith(f"{one}.") for one in hand.given)
    ]
    texts = [f"{path}={_text(value)}" for path, (value, _) in changes.items() if value is not KEPT]
    return Scaled((*of_paper(recipe, several=hand.several), *texts), tuple(told))


# By path, the value at hand and a sentence about it, "" for none.
Changes = dict[str, tuple[Any, str]]
KEPT = object()  # no value of this path is set


def _of_time(recipe: Published, hand: Hand, total: int) -> Changes:
    """Return batch, learning rate, length, and what is a share of the length."""
    published, share = recipe.settings["optimizer.lr"], hand.batch / recipe.batch
    rate = published * (share if recipe.rate_by == "batch" else math.sqrt(share))
    by = "x" if recipe.rate_by == "batch" else "x the root of"
    epochs, steps = recipe.epochs + recipe.rest, max(1, hand.images // hand.batch)
    length = f"{epochs} epochs of {steps} steps are {epochs * steps:,} steps"
    if hand.total is not None:
        length = f"{total:,} steps, where {length}"
    warmup = max(1, round(total * recipe.warmup / epochs))
    changes: Changes = {
        "steps.batch": (hand.batch, ""),
        "optimizer.lr": (
            float(f"{rate:.6g}"),
            f"learning rate {rate:.6g} = {published:g} {by} {hand.batch}/{recipe.batch}, by "
            f"{recipe.rule}",
        ),
        "steps.total": (total, ""),
        "schedule.warmup": (warmup, f"{length}; warm-up in the first {warmup:,}"),
    }
    if recipe.settings["schedule"] != "staircase":
        changes["schedule.rest"] = round(total * recipe.rest / epochs), ""
    if recipe.attacks and not hand.several:
        growing = round(total * recipe.radius_warmup / epochs)
        said = f"the attack's radius grows in the first {growing:,}" if growing else ""
        changes["objective.warmup"] = growing, said
    if (decay := recipe.settings["steps.ema"]) is not None:
        memory = 1 - (1 - decay) * epochs * recipe.images / recipe.batch / total
        memory = round(min(LONGEST, max(SHORTEST, memory)), 5)
        changes["steps.ema"] = memory, f"average of weights {memory:g}, for {decay:g}"
    return changes


def _of_data(recipe: Published, hand: Hand) -> Changes:
    """Return what depends on classes, labels and the size of images."""
    changes: Changes = {}
    if hand.several:
        changes["objective"] = KEPT, "binary cross entropy of each label instead of its loss"
    elif recipe.settings.get("objective.bias") is not None:
        bias = round(prior(hand.classes), 4)
        changes["objective.bias"] = bias, f"the head's bias begins at {bias:g}"
    if max(hand.image) <= TINY:
        changes["augment.scale"] = None, ""
        changes["augment.shift"] = (
            SHIFT,
            f"shifts of {SHIFT:g} instead of crops, as DeiT's code has it up to {TINY} pixels",
        )
    return changes


def _path(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
