"""What goes of a model, learned with its weights under a budget: UVC's first stage."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from vitrail.compression import uvc
from vitrail.errors import BudgetError
from vitrail.jobs.cutting import Asked
from vitrail.models import Backbone
from vitrail.models.trunk.widths import HIDDEN, INNER, Cut, heads_of, resized, sizes
from vitrail.objectives import Uvc
from vitrail.run.before import Before
from vitrail.run.folder import RunFolder
from vitrail.run.subject import counted
from vitrail.run.view import View
from vitrail.run.watch import Watched, checkpoints
from vitrail.run.workshop import Workshop
from vitrail.training.schedule import Schedule
from vitrail.training.snapshot import newest
from vitrail.units import count

NAME = "uvc"
# As the authors divide their epochs: 30 of 150 for the first stage, which had 75,000 steps, at a
# fifth of the rate of a training from the start.
SHARE, STEPS, SLOWER = 5, 75_000, 5
# The budget is kept by neurons taken in so many portions where the learned counts miss it.
PORTIONS = 50
# One over the share of the neurons that may go for the sake of one block more.
MORE = 4


def require(before: Before, asked: Asked) -> None:
    """Raise ConfigError unless UVC knows the model, BudgetError where it cannot keep the budget."""
    model = before.model
    found = uvc.sizes_of(model)
    channels = {
        width: {INNER: 1, HIDDEN: 1}.get(width.partition(".")[0], n)
        for width, n in sizes(model).items()
    }
    heads = {width: 1 for width in channels if width.startswith(INNER)}
    small = counted(resized(model.config, channels, heads, range(1, found.blocks)))
    assert small is not None and asked.macs is not None
    if small.macs > asked.macs:
        raise BudgetError(
            f"the budget ({asked.limits.spoken()}) is below what one block of one head and one "
            f"neuron costs without a narrower embedding ({count(small.macs)}): give more, or take "
            "--method up"
        )


def learned(
    before: Before, asked: Asked, workshop: Workshop, run: RunFolder, view: View
) -> tuple[Backbone, Cut]:
    """Train the run's model with counts and gates; returns it and what stays of it."""
    old, whole = before.recipe, counted(before.recipe.config)
    assert whole is not None and asked.macs is not None
    total = max(1, old.steps.total // SHARE)
    recipe = replace(
        old,
        pretrained=str(before.run.weights),
        keep_head=True,
        steps=replace(old.steps, total=total, ema=None),
        schedule=Schedule(total // 10),
        optimizer=replace(old.optimizer, lr=old.optimizer.lr / SLOWER),
        objective=Uvc(
            str(before.run.path),
            asked.macs / whole.macs,
            rate=old.optimizer.lr / SLOWER,
            interval=max(1, min(50, total // 40)),
            pace=max(1.0, STEPS / total),
        ),
        seed=asked.seed,
    )
    outcome = Watched(workshop, run.path, NAME, view).advance(recipe, total)
    snapshot = newest(checkpoints(run.path, NAME) / "checkpoint")
    assert snapshot is not None
    s, r, gates = (snapshot.tensors[f"objective.{name}"] for name in ("s", "r", "gates"))
    model: Backbone = outcome.model.cpu().eval()  # pyright: ignore[reportAssignmentType]
    return model, within(model, s, r, gates[:, 1] - gates[:, 0], asked.macs)


def within(model: Backbone, s: Tensor, r: Tensor, gates: Tensor, macs: int) -> Cut:
    """Return the cut of the learned counts and gates, as much of the model as the budget leaves.

    Blocks run whose gate is above 0, and as many more as there is room for, the likeliest first,
    if need be with up to a quarter of the neurons less: soft gates may keep the budget by a half of
    each block, and hard ones would then leave out most of them. Where the counts miss the budget,
    more neurons are taken, and in the end each block keeps one head. Raises BudgetError where that
    is too much.
    """
    found = uvc.scores(model, heads_of(model.config, f"{INNER}.0"))
    order, least = gates.argsort(descending=True), int((gates > 0).sum()) or len(gates)
    most = float(found.neurons.shape[1] - 1), float(found.heads.shape[1] - 1)
    roomy = product(range(len(gates), least, -1), range(PORTIONS // MORE + 1))
    for blocks, portion in [*roomy, *((least, n) for n in range(PORTIONS + 2))]:
        more = min(1.0, portion / PORTIONS)
        heads = s[:, 0] if portion <= PORTIONS else torch.full_like(s[:, 0], most[1])
        tried = torch.stack([heads, s[:, 1] + more * (most[0] - s[:, 1])], 1)
        runs = torch.zeros(len(gates), dtype=torch.bool)
        runs[order[:blocks]] = True
        made = uvc.cut(tried, r, runs, found, model.config)
        channels = {w: len(made.kept.get(w, range(n))) for w, n in sizes(model).items()}
        figures = counted(resized(model.config, channels, made.heads, made.without))
        if figures is not None and figures.macs <= macs:
            return made
    raise BudgetError(
        f"the blocks that were learned to stay cost more than {count(macs)} multiply-adds with one "
        "head and one neuron each: give more, or take --method up"
    )
