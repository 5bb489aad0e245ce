"""`vitrail recipes`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitrail.commands.options import Json, say, show
from vitrail.errors import ConfigError

if TYPE_CHECKING:
    from vitrail.recipes.paper import Published

Chosen = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names of recipes: all fields of one, or the fields in which a second one differs."
    ),
]
OPTIMIZER = {
    "optimizer": "optimizer", "lr": "optimizer.lr", "batch": "steps.batch", "epochs": "epochs",
    "rest": "rest (epochs)", "warm-up": "warmup (epochs)", "schedule": "schedule",
    "floor": "schedule.floor", "decay": "optimizer.weight_decay", "clip": "steps.clip",
    "units": "steps.units", "average": "steps.ema", "image": "image",
}  # fmt: skip
AUGMENTATION = {
    "policy": "augment.policy", "magnitude": "augment.policy.magnitude", "mixup": "augment.mixup",
    "cutmix": "augment.cutmix", "erasing": "augment.erasing", "repeats": "augment.repeats",
    "head": "head", "drop path": "model.drop_path", "dropout": "methods.0.rate",
    "objective": "objective", "smoothing": "objective.smoothing",
    "radius": "objective.attack.radius",
}  # fmt: skip


def recipes(names: Chosen = None, as_json: Json = False) -> None:
    """Show published recipes side by side, all fields of one, or what one changes of another."""
    from vitrail.recipes.published import RECIPES, published

    chosen = [published(name) for name in names or ()]
    if len(chosen) > 2:
        raise ConfigError(f"{len(chosen)} recipes are more than can be compared: give one or two")
    if len(chosen) == 2:
        _compare(chosen[0], chosen[1], as_json)
    elif as_json:
        print(json.dumps([_json(one) for one in chosen or RECIPES.values()], indent=1))
    elif chosen:
        _describe(chosen[0])
    else:
        _list(RECIPES.values())


def _list(every: Iterable[Published]) -> None:
    known = [(one, one.fields()) for one in every]
    for columns in (OPTIMIZER, AUGMENTATION):
        rows = [
            [one.name, *(_said(f.get(path, "-")) for path in columns.values())] for one, f in known
        ]
        left = ("recipe", "optimizer", "schedule", "policy", "objective")
        show(("recipe", *columns), rows, left=left)
        print()
    say(
        "As published, on ImageNet-1k, those with a head on COCO; * is not certain. "
        "`vitrail recipes NAME` shows every field, `vitrail recipes NAME OTHER` what differs; "
        "`vitrail train --recipe NAME` trains by one."
    )


def _describe(one: Published) -> None:
    rows = [(path, _said(value) + _mark(one, path)) for path, value in one.fields().items()]
    show((one.name, ""), rows, left=(one.name, ""))
    note = f"; {one.note}" if one.note else ""
    say(f"{one.source}; the learning rate follows the batch by {one.rule}{note}")


def _compare(one: Published, other: Published, as_json: bool) -> None:
    from vitrail.recipes.paper import differences

    found = differences(one, other)
    if as_json:
        print(json.dumps({path: {one.name: a, other.name: b} for path, a, b in found}, indent=1))
        return
    rows = [
        (path, _said(a) + _mark(one, path), _said(b) + _mark(other, path)) for path, a, b in found
    ]
    show(("field", one.name, other.name), rows, left=("field", one.name, other.name))
    same = len({**one.fields(), **other.fields()}) - len(found)
    say(f"{len(found)} fields differ, {same} are the same")


def _mark(one: Published, path: str) -> str:
    return "*" if path in one.unsure else ""


def _said(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_said, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _json(one: Published) -> dict[str, Any]:
    told = {"name": one.name, "source": one.source, "rule": one.rule, "note": one.note}
    return told | {"unsure": list(one.unsure), "fields": one.fields()}
