"""Candidates that the user names: files with a model, such as the found.json of a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError, ConfigError
from vitrail.models import config_in, create, resolve
from vitrail.models.trunk.backbone import input_kind, input_words
from vitrail.run.subject import counted
from vitrail.search.candidate import Candidate, candidate
from vitrail.search.rescue import as_exported
from vitrail.search.shortlist import Terms
from vitrail.search.timing import folded_latency, paced
from vitrail.units import seconds


def guests(files: Sequence[str], terms: Terms) -> list[Candidate]:
    """Return a candidate for each JSON file, at its own image size, with the classes of the data.

    Raises ConfigError for a file without a model of images, BudgetError for one over a limit that
    can be counted.
    """
    return [_guest(Path(file), terms) for file in files]


def _guest(file: Path, terms: Terms) -> Candidate:
    config = config_in(file)
    if input_kind(config) != "images":
        raise ConfigError(f"{file} is a model of {input_words(config)}: images are fitted here")
    config = resolve(config, channels=terms.channels, classes=terms.classes)
    figures = counted(config)
    if figures is None:
        create(config)  # says what is wrong
        raise ConfigError(f"{file} cannot be built for these images: leave out --add {file}")
    one = candidate(config, params=figures.params, macs=figures.macs)
    if not terms.budget.allows(params=one.params, macs=one.macs):
        raise BudgetError(
            f"{file} has {one.figures()}, over the budget ({terms.budget.spoken()}): allow as "
            f"much, or leave out --add {file}"
        )
    return one


def timed(found: Sequence[Candidate], terms: Terms, apart: Apart) -> list[Candidate]:
    """Return guests with their latency, as exported where one is limited, and their pace.

    Raises BudgetError for one that misses the latency.
    """
    budget = terms.budget
    exported = {c.name: c for c in as_exported(found, budget, seconds=60.0, apart=apart)}
    ready = []
    for one in found:
        known = exported.get(one.name)
        room = budget.room_s(one.image, one.channels)
        if known is not None and room is not None and (known.latency_s or 0.0) > room:
            raise BudgetError(
                f"{one.title} of --add takes {seconds(known.latency_s or 0.0)} as exported, over "
                f"the budget ({budget.spoken()}): allow as much, or leave it out"
            )
        one = known or replace(one, latency_s=folded_latency(one, budget).quickest_s)
        ready.append(paced(one, batch=terms.batch_of(one), device=terms.device))
    return ready
