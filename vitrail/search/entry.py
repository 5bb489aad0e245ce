"""What an Optuna study keeps of a candidate of the race, and how it is read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vitrail.config import parse, to_json
from vitrail.errors import ConfigError, RunError
from vitrail.recipes.recipe import Recipe, from_json
from vitrail.run.storage import redacted
from vitrail.search.candidate import Candidate
from vitrail.search.rungs import Runner
from vitrail.units import shortened


@dataclass(frozen=True)
class Entry:
    """What a candidate enters with: its recipe in JSON, the last step of each rung, and the seconds
    that it may have trained then."""

    candidate: Candidate
    recipe: dict[str, Any]
    steps: tuple[int, ...]
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Finished:
    """What a rung left behind beside the score: loss, images per second, and how many images were
    judged."""

    loss: float | None = None
    rate: float | None = None
    n: int | None = None


def entered(runner: Runner) -> dict[str, Any]:
    """Return what the study keeps of a candidate that begins."""
    recipe = to_json(runner.recipe)
    return to_json(Entry(runner.candidate, recipe, runner.steps, runner.seconds))


def runner(
    trial: Any, localise: Callable[..., Recipe], where: Path | str, *, begun: bool = True
) -> Runner:
    """Return where a candidate stands by its trial in the study `where`.

    `localise` maps the recipe to this machine; not `begun`, it has no rung behind it. Raises
    RunError where the trial says something of another type.
    """
    said: Mapping[str, Any] = trial.user_attrs
    scores: Mapping[int, float] = trial.intermediate_values if begun else {}
    try:
        strange = [rung for rung in scores if not isinstance(rung, int)]
        strange += [score for score in scores.values() if not isinstance(score, int | float)]
        if strange:  # SQLite keeps whatever it is given in a column
            raise ConfigError(f"{strange[0]!r} is neither a rung nor a score")
        rung = max(scores, default=-1)
        entry = parse(Entry, {f.name: said[f.name] for f in fields(Entry) if f.name in said})
        last = parse(Finished, said.get(f"rung{rung}", {}), f"rung{rung}")
        steps = tuple(
            parse(int, said.get(f"until{i}", step), f"until{i}")
            for i, step in enumerate(entry.steps)
        )
        if not -1 <= rung < len(steps):
            raise ConfigError(f"there is a score of rung {rung}, and steps of {len(steps)} rungs")
        recipe = localise(from_json(entry.recipe))
    except ConfigError as error:
        raise damaged(where, f"trial {trial.number}: {error}") from error
    return Runner(
        entry.candidate,
        recipe,
        steps,
        rung,
        scores.get(rung),
        last.loss,
        last.rate,
        trial.number,
        entry.seconds,
        last.n,
    )


def damaged(where: Path | str, what: str) -> RunError:
    """Return the error for a study that says what no race has written."""
    place = where if isinstance(where, Path) else redacted(where)
    return RunError(
        f"the study {place} is damaged ({shortened(what, 300)}): restore it, or start a new run"
    )
