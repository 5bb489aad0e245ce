"""What finished trainings of things that find each other share: weights, facts, what is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from vitrail import checkpoint
from vitrail.measure.machine import machine
from vitrail.models.trunk.catalog import shapes
from vitrail.recipes.recipe import Recipe
from vitrail.report.facts import FindingFacts
from vitrail.report.paired import Asked
from vitrail.run.facts import today
from vitrail.run.folder import RunFolder
from vitrail.run.judge import Verdict, judge
from vitrail.run.reading import Read
from vitrail.run.state import State
from vitrail.run.subject import Subject
from vitrail.run.watch import checkpoints
from vitrail.tasks.pairing import Pairs
from vitrail.tasks.task import Scores, at_rest
from vitrail.training.journal import Journal

NAME = "towers"  # of the folder of checkpoints
TOKENIZER = "tokenizer.json"
ASKED, SHOWN = 8, 4


@dataclass(frozen=True, eq=False)
class Paired:
    """A training of several towers at its end; `subject` is that of the images' or clips'."""

    subject: Subject
    recipe: Recipe
    model: nn.Module
    scores: Scores


def tested(found: Paired, run: RunFolder, images: Read, state: State) -> Verdict:
    """Open the test part once; write weights and journal. Raises RunError."""
    recipe, workshop = found.recipe, images.workshop
    with state.phase("test"):
        verdict = judge(found.model, recipe, workshop.split.test, workshop)
    checkpoint.save(
        run.weights, at_rest(found.model).state_dict(), metadata={"config": recipe.model}
    )
    journal = Journal(checkpoints(run.path, NAME) / "metrics.jsonl")
    run.write_bytes(run.metrics, journal.path.read_bytes())
    return verdict


def common(found: Paired, run: RunFolder, images: Read, state: State) -> dict[str, Any]:
    """Return the facts of a page that are told of every such training."""
    recipe, split = found.recipe, images.workshop.split
    lines = Journal(run.metrics).read()
    return {
        "model": found.subject.title,
        "params": sum(int(np.prod(s)) for s in shapes(recipe.config).values()),
        "data": images.inspection.source.name,
        "origin": images.inspection.source.origin,
        "images": len(split.train),
        "test": len(split.test),
        "steps": recipe.steps.total,
        "batch": recipe.steps.batch,
        "lines": [line for line in lines if "loss" in line],
        "looks": [line for line in lines if "val_score" in line],
        "findings": [
            FindingFacts(f.kind, f.severity, f.message, f.keys)
            for f in (*images.inspection.findings, *split.findings)
        ],
        "broken": len(images.inspection.broken),
        "command": str(state.values.get("command", "")),
        "machine": {k: v for k, v in machine().items() if k != "versions"},
        "seconds": dict(state.seconds),
        "date": today(),
        "run": str(run.path),
    }


def finished(found: Paired, state: State) -> dict[str, Any]:
    """Return what the result of every such training says."""
    return {
        "validation": dict(found.scores.figures),
        "steps": found.recipe.steps.total,
        "command": str(state.values.get("command", "")),
        "seed": found.recipe.seed,
        "machine": machine(),
        "seconds": {**state.seconds, "total": state.spent_s},
    }


def confusion(pairs: Pairs | None, classes: int) -> list[list[int]]:
    """Return how often each class, a row, is told as each, where classes are asked for."""
    if pairs is None or pairs.asked is None:
        return []
    answers = (pairs.values @ pairs.asked.mT).argmax(1)
    counts = torch.bincount(pairs.targets * classes + answers, minlength=classes**2)
    return counts.view(classes, classes).tolist()


def asked(pairs: Pairs, verdict: Verdict, drawn: Callable[[np.ndarray], bytes]) -> Sequence[Asked]:
    """Return some sentences, evenly over all, with what they find first, each `drawn` as a PNG."""
    chosen = np.unique(np.linspace(0, len(pairs.said) - 1, min(ASKED, len(pairs.said))).astype(int))
    own = {(row, text) for row, text in pairs.own.tolist()}
    found = []
    for text in map(int, chosen):
        cosines = pairs.values @ pairs.texts[text]
        rows = cosines.topk(min(SHOWN, len(cosines))).indices.tolist()
        pictures = [drawn(one) for one in verdict.pixels.take(np.array(rows))]
        keys = [verdict.pixels.keys[row] for row in rows]
        right = [(row, text) in own for row in rows]
        found.append(Asked(pairs.said[text], pictures, keys, right))
    return found
