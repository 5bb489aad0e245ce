"""From pretrained weights to a finished run folder: weights, figures, and a page that shows them.

The folder holds what `fit --pretrained`, `probe` and `load` need: recipe.json, labels.json (how
images become numbers, and no classes) and weights.safetensors, beside the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail import checkpoint
from vitrail.attribution import overlay, png
from vitrail.config import to_json
from vitrail.data.cache import Pixels
from vitrail.layers.normal import Normal
from vitrail.layers.protocols import Attends
from vitrail.measure.machine import machine
from vitrail.models.trunk.backbone import Isotropic
from vitrail.objectives.parts.tokens import prefix, read
from vitrail.recipes.recipe import Recipe
from vitrail.report.facts import FindingFacts
from vitrail.report.pretraining import Neighbours, PretrainingFacts, card, render
from vitrail.run.facts import today
from vitrail.run.folder import RunFolder
from vitrail.run.probing import embedded
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.run.subject import Subject
from vitrail.run.watch import checkpoints
from vitrail.tasks.fewshot import unit
from vitrail.tasks.task import at_rest

NAME = "backbone"  # of the folder of checkpoints
MAPPED, SOUGHT = 1500, 2000
ASKED, SHOWN, LOOKED = 6, 4, 12


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretraining at its end: what was trained, how, the journal's lines, and the command."""

    subject: Subject
    recipe: Recipe
    model: nn.Module
    lines: Sequence[Mapping[str, Any]]
    method: str
    command: str


def conclude(found: Pretrained, run: RunFolder, images: Read, state: State) -> None:
    """Write weights, labels, result, page and card. Raises RunError."""
    recipe, workshop = found.recipe, images.workshop
    with state.phase("page"):
        facts = _facts(found, run, images, state)
    weights = at_rest(found.model).state_dict()
    checkpoint.save(run.weights, weights, metadata={"config": recipe.model})
    labels = {
        "classes": [],
        "image": recipe.data.image,
        "channels": recipe.data.channels,
        "mean": recipe.data.mean,
        "std": recipe.data.std,
        "ranges": to_json(workshop.split.train.source.ranges),
    }
    run.write_json(run.labels, labels)
    run.write_bytes(run.metrics, (checkpoints(run.path, NAME) / "metrics.jsonl").read_bytes())
    run.write_text(run.report, render(facts))
    run.write_text(run.readme, card(facts))
    run.write_json(run.result, _result(found, facts, state))


def _result(found: Pretrained, facts: PretrainingFacts, state: State) -> dict[str, Any]:
    return {
        "method": found.method,
        "model": {"name": found.subject.name, "title": found.subject.title,
                  "params": found.subject.params, "macs": found.subject.macs},
        "images": facts.images,
        "steps": found.recipe.steps.total,
        "looks": list(facts.looks),
        "command": found.command,
        "seed": found.recipe.seed,
        "machine": machine(),
        "seconds": {**state.seconds, "total": state.spent_s},
    }  # fmt: skip


def _facts(found: Pretrained, run: RunFolder, images: Read, state: State) -> PretrainingFacts:
    recipe, workshop = found.recipe, images.workshop
    split, inspection = workshop.split, images.inspection
    image, channels = recipe.data.image, recipe.data.channels
    train = workshop.pixels("train", image, channels)
    labelled = bool(split.classes) and train.labels.ndim == 1
    drawn = workshop.pixels("val", image, channels) if labelled else train
    drawn, sought = drawn.first(MAPPED), train.first(SOUGHT)
    features = embedded(found.model, recipe, workshop, drawn)
    known = embedded(found.model, recipe, workshop, sought)
    looks = [
        {name: line[name] for name in ("step", "knn", "linear")}
        for line in found.lines
        if "knn" in line
    ]
    return PretrainingFacts(
        method=found.method,
        data=inspection.source.name,
        origin=inspection.source.origin,
        images=len(split.train),
        held=len(split.val) if labelled else 0,
        model=found.subject.title,
        params=found.subject.params,
        macs=found.subject.macs,
        image=image,
        steps=recipe.steps.total,
        batch=recipe.steps.batch,
        lines=[line for line in found.lines if "loss" in line],
        looks=looks,
        classes=split.classes if labelled else (),
        map=_map(features),
        labels=drawn.labels.tolist() if labelled else [],
        neighbours=_neighbours(sought, known, split.classes if labelled else ()),
        attention=_attention(found, sought),
        findings=[FindingFacts(f.kind, f.severity, f.message, f.keys) for f in inspection.findings],
        broken=len(inspection.broken),
        command=found.command,
        machine={k: v for k, v in machine().items() if k != "versions"},
        seconds=dict(state.seconds),
        date=today(),
        run=str(run.path),
    )  # fmt: skip


def _map(features: np.ndarray) -> list[tuple[float, float]]:
    """Return the two principal components of unit features, which have
    unit deviation themselves.
    """
    from sklearn.decomposition import PCA

    if min(features.shape) < 2:
        return []
    flat = PCA(2, whiten=True, svd_solver="full").fit_transform(unit(features))
    return [(float(x), float(y)) for x, y in flat]


def _neighbours(images: Pixels, features: np.ndarray, classes: Sequence[str]) -> list[Neighbours]:
    """Return some pictures, evenly over the part, with those whose features are most similar."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(ASKED, len(images))).astype(int))
    x, found = unit(features), []
    for row in map(int, rows):
        similar = x @ x[row]
        similar[row] = -np.inf
        closest = np.argsort(-similar, kind="stable")[: min(SHOWN, len(images) - 1)]
        near = [int(other) for other in closest]
        pictures = [png(one) for one in images.take(np.array([row, *near]))]
        named = [classes[int(images.labels[r])] for r in (row, *near)] if classes else []
        keys = [images.keys[r] for r in (row, *near)]
        found.append(Neighbours(pictures, keys, named))
    return found


@torch.no_grad()
def _attention(found: Pretrained, images: Pixels) -> list[tuple[bytes, bytes, str]]:
    """Return pictures, what the class token reads in each, and their keys;
    empty without such a token.
    """
    model: Any = at_rest(found.model)
    if not isinstance(model, Isotropic):
        return []
    if not isinstance(getattr(model.blocks[-1], "mixer", None), Attends) or not prefix(model):
        return []
    data, rows = found.recipe.data, np.arange(min(LOOKED, len(images)))
    pixels = images.take(rows)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    seen = read(model, Normal(data.mean, data.std).apply(x), attention=True).attention
    assert seen is not None
    h, w = model.embed.grid(*data.image)  # pyright: ignore[reportCallIssue]
    drawn = []
    for row, weights in enumerate(seen.view(-1, h, w).numpy()):
        low, high = weights.min(), weights.max()
        heat = (weights - low) / max(high - low, 1e-12)
        drawn.append((png(pixels[row]), overlay(pixels[row], heat), images.keys[row]))
    return drawn
