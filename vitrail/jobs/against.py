"""What a pretraining brought, against its network from scratch in the same time altogether.

A race gives all who take part equal time and leaves out what the pretraining had taken before. So
the network that won with the weights is trained once more without them, for as long as pretraining
and training took together.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from vitrail.config import to_json
from vitrail.errors import ConfigError
from vitrail.jobs.training import HOLD
from vitrail.recipes.defaults import default
from vitrail.recipes.recipe import Recipe, amend
from vitrail.run.finish import Desk, Trained
from vitrail.run.state import NAME, State
from vitrail.run.view import View
from vitrail.run.watch import Watched
from vitrail.run.workshop import Workshop
from vitrail.units import counted, percent, seconds


def pretraining_s(reference: str | None) -> float | None:
    """Return how long the pretraining took whose run folder, or whose weights, are given; None for
    what is not a run of `vitrail pretrain`."""
    if reference is None:
        return None
    path = Path(reference)
    state = (path if path.is_dir() else path.parent) / NAME
    if not state.is_file():
        return None
    values = State.read(state).values
    return float(values["spent_s"]) if "pretraining" in values else None


def require_pretraining(reference: str | None, pretrains: bool) -> None:
    """Raise ConfigError unless weights come from a pretraining whose time is known."""
    if not pretrains and pretraining_s(reference) is None:
        given = "no weights are given" if reference is None else f"{reference} is none"
        raise ConfigError(
            "--against-scratch counts the time of a pretraining by `vitrail pretrain`, and "
            f"{given}: add --pretrain PICTURES, or --pretrained with the folder of one"
        )


def longer(
    trained: Trained, workshop: Workshop, more_s: float, pace: float, settings: tuple[str, ...]
) -> Recipe:
    """Return the recipe of a trained network from scratch, for `more_s` seconds more at `pace`
    steps a second."""
    old = trained.recipe
    total = old.steps.total + max(1, round(pace * more_s))
    recipe = default(
        old.config, old.data, images=len(workshop.split.train), total=total, seed=old.seed,
        device=workshop.device, precision=old.steps.precision,
    )  # fmt: skip
    recipe = amend(recipe, [s for s in settings if not s.startswith("data")])
    schedule = replace(recipe.schedule, hold=int(HOLD * total))
    return replace(recipe, schedule=schedule, methods=old.methods)


def against_scratch(
    trained: Trained, desk: Desk, view: View, settings: tuple[str, ...]
) -> str | None:
    """Train a winner's network from scratch in the time of pretraining and training together, and
    say how both do on the validation part; None where it began from scratch itself."""
    one, state = trained.subject, desk.state
    more_s = pretraining_s(one.pretrained)
    if more_s is None:
        return None
    if "scratch" not in state.values:
        pace = float(state.finals[one.name]["pace"])
        state.put(scratch=to_json(longer(trained, desk.workshop, more_s, pace, settings)))
    recipe = state.get(Recipe, "scratch")
    name = f"{one.name}-scratch"
    twin = replace(one, name=name, pretrained=None)
    view.add(twin)
    view.phase(f"training {one.name} from scratch for {seconds(more_s)} more, to compare")
    watched = Watched(desk.workshop, desk.run.path, name, view)
    with state.phase("from scratch"):
        _, scores = watched.to_end(recipe)
    shutil.rmtree(watched.folder, ignore_errors=True)
    ahead = 100 * (trained.scores.main - scores.main)
    return (
        f"{one.title} reached {percent(trained.scores.main)} of the validation part with the "
        f"weights; from scratch, in {counted(recipe.steps.total, 'step')} in place of "
        f"{trained.recipe.steps.total:,}, which take as long as pretraining and training together, "
        f"{percent(scores.main)}: {abs(ahead):.1f} points {'fewer' if ahead >= 0 else 'more'}"
    )
