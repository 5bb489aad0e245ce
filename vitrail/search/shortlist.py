"""Which models race: all families and image sizes, counted, timed, and thinned to a few.

From every family's own space of small configs: exact counts on `meta` against the budget;
then, for a spread of those that are left, the latency on this machine and a few training
steps by the clock, since what a model can learn in a limited time depends on how many images
it sees. Engines are several times as fast as torch at batch 1, and by how much depends on the
model: so nothing that torch finds within the reach of an engine is called too slow, before it
was timed as exported. The list is in turns of families, those first that learned most elsewhere
in the same time (`prior.py`), at sizes near the best balance between capacity and images seen.
The less time there is, the fewer families are looked at.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from vitrail.config import kind_of
from vitrail.data.source import Kind
from vitrail.engines.apart import Apart
from vitrail.errors import BudgetError
from vitrail.methods import Methods
from vitrail.models import families
from vitrail.recipes.defaults import batch_size, learns_as
from vitrail.run.budget import Budget
from vitrail.search.box_space import box_candidates
from vitrail.search.candidate import Candidate
from vitrail.search.clip_space import clip_candidates
from vitrail.search.dense_space import dense_candidates
from vitrail.search.fitness import MISFIT, both_sides, passes, worth
from vitrail.search.prior import by_prior, prior
from vitrail.search.rescue import REACH, as_exported
from vitrail.search.series_space import series_candidates
from vitrail.search.sound_space import sound_candidates
from vitrail.search.space import small_candidates
from vitrail.search.suited import burden, refusal
from vitrail.search.timing import folded_latency, paced, peak_macs_per_s
from vitrail.search.wave_space import wave_candidates

# Training takes three passes, at some 40 % of the rate of a matrix product.
PASSES, PRODUCTIVE = 3, 0.4
# So many sizes of a family are timed at most.
SIZES = 6

# The shares of the time that go into counting and into timing; each second of them is one of
# training less.
COUNTING, TIMING = 1 / 60, 1 / 25

# So long at least models are counted before it is said that none keeps the budget.
PATIENCE_S = 20.0
# How many race where not one keeps the latency: the least slow of them is still an answer.
LAST_RESORT = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Terms:
    """What a shortlist is made for: the images, the budget, and how much time there is.

    `images` is the number of training images, `seconds` what the winner may train in all, `size`
    how many may race, `batch` the images of a training step, `methods` what all of them take; with
    `maps` every pixel has a class, with `outlines` objects have pixels
    of their own, with `sounds` images are spectrograms. Where the task `takes`
    series, `image_size` is (steps, 1), where waves, (1, samples); clips have so many `frames`. With
    `sides` a network may answer by an image and its mirror image in the end, for twice its
    multiply-adds.
    """

    image_size: tuple[int, int]
    channels: int
    classes: int
    images: int
    budget: Budget
    seconds: float
    size: int
    batch: int
    device: str = "cpu"
    seed: int = 0
    methods: tuple[Methods, ...] = ()
    maps: bool = False
    boxes: bool = False
    outlines: bool = False
    sounds: bool = False
    takes: Kind = "images"
    frames: int = 1
    sides: bool = False

    def batch_of(self, one: Candidate) -> int:
        """Return the images of a training step of a candidate, some of which take more."""
        return max(self.batch, batch_size(self.images, self.device, one.config))

    @property
    def both(self) -> Budget | None:
        """Return the limits for an answer by both sides, None where there is none."""
        return self.budget if self.sides else None


@dataclass(frozen=True)
class Shortlist:
    """`candidates` race; `over` were measured and are over the budget; `counted` in all."""

    candidates: tuple[Candidate, ...]
    over: tuple[Candidate, ...] = ()
    counted: int = 0


def shortlist(
    terms: Terms,
    *,
    extra: Sequence[Candidate] = (),
    say: Say = lambda text: None,
    apart: Apart | None = None,
) -> Shortlist:
    """Choose candidates for a race.

    `extra` are candidates with pretrained weights (counted already). About a sixtieth of the
    seconds goes into counting and a twenty-fifth into timing; with `apart` as much again into
    timing as exported, in the engine that the budget names. Raises BudgetError, naming the
    closest model, when nothing keeps the limits that can be counted.
    """
    counted = count_models(terms, extra, say)
    timed, far = time_models(counted.allowed, terms, say)
    over = list(far)
    if apart is not None:
        timed, late = time_exported(timed, terms, apart, say)
        over += late
    if not timed:
        say("looking for faster models")
        timed, over = _last_resort(counted, over, terms)
    return Shortlist(tuple(_chosen(timed, terms)), tuple(over), len(counted.pool))


# ---- count -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Counted:
    """Models with exact counts: all that were looked at, those within limits, and the rest."""

    pool: Sequence[Candidate]
    allowed: Sequence[Candidate]
    rest: Iterator[tuple[Candidate, bool]]


def count_models(terms: Terms, extra: Sequence[Candidate], say: Say) -> Counted:
    """Count models of the promising families until there are enough within the limits.

    Raises BudgetError, naming the closest model, when there is none.
    """
    say("counting models")
    budget = terms.budget
    space = _space(terms, most=max(6, 2 * terms.size))
    pool, allowed = list(extra), [c for c in extra if budget.allows(params=c.params, macs=c.macs)]
    deadline = math.inf
    for one, second_choice in space:
        if second_choice and len(allowed) >= terms.size:
            break
        pool.append(one)
        # The first one waits for torch's imports.
        deadline = min(deadline, time.perf_counter() + max(3.0, COUNTING * terms.seconds))
        if budget.allows(params=one.params, macs=one.macs):
            allowed.append(one)
        # A tight budget leaves few: then it is worth a longer search.
        late = time.perf_counter() - deadline
        enough = len(allowed) >= 4 * terms.size or (allowed and late > TIMING * terms.seconds)
        if (late > 0 and enough) or late > max(PATIENCE_S, terms.seconds / 10):
            break
    if not allowed:
        raise _nothing(pool, terms)
    return Counted(pool, allowed, space)


def _space(terms: Terms, *, most: int) -> Iterator[tuple[Candidate, bool]]:
    """Candidates of the `most` promising families, then of the others (marked True); of networks
    of maps and of detectors all."""
    if terms.takes == "series":
        for one in series_candidates(terms.image_size, terms.channels, terms.classes, terms.seed):
            yield one, False
        return
    if terms.takes == "clips":
        for one in clip_candidates(terms.image_size, terms.frames, terms.classes, terms.seed):
            yield one, False
        return
    if terms.takes == "waves":
        for one in wave_candidates(terms.image_size[1], terms.classes):
            yield one, False
        return
    if terms.maps or terms.boxes:
        sizes = terms.image_size, terms.channels, terms.classes, terms.seed
        if terms.maps:
            space = dense_candidates(*sizes)
        else:
            space = box_candidates(*sizes, outlines=terms.outlines)
        for one in space:
            yield one, False
        return
    ordered = by_prior(families())
    # A method leaves few of a family's models, or none.
    most = 2 * most if terms.methods else most
    for chosen, second_choice in ((ordered[:most], False), (ordered[most:], True)):
        listed = sound_candidates if terms.sounds and not second_choice else small_candidates
        for one in listed(terms.image_size, terms.channels, terms.classes, terms.seed, chosen):
            if refusal(one.config, terms.methods) is None:
                yield one, second_choice


# ---- time ------------------------------------------------------------------------------


def time_models(
    allowed: Sequence[Candidate], terms: Terms, say: Say
) -> tuple[list[Candidate], list[Candidate]]:
    """Time a spread of models in torch: those within reach of the latency, and those far off.

    What a family's models turn out to compute in a second decides which of its sizes is next.
    """
    peak = peak_macs_per_s()
    # Whatever cannot see every image once, even at the full rate, is not worth timing.
    affordable = [c for c in allowed if PASSES * c.macs * terms.images <= peak * terms.seconds]
    columns = _by_family(affordable or [min(allowed, key=lambda c: c.macs)])
    timed: list[list[Candidate]] = [[] for _ in columns]
    far: list[list[Candidate]] = [[] for _ in columns]
    least = min(terms.size, len(columns))
    deadline = time.perf_counter() + TIMING * terms.seconds
    for place in _visits(len(columns), terms.size):
        if time.perf_counter() > deadline and len([c for some in timed for c in some]) >= least:
            break
        done = max((c.macs * (c.rate or 0.0) for c in timed[place]), default=0.0)
        one = _next(columns[place], done or PRODUCTIVE * peak / PASSES, terms)
        if one is None:
            continue
        columns[place].remove(one)
        say(f"timing {one.name}")
        one = replace(one, latency_s=folded_latency(one, terms.budget).quickest_s)
        if _within(one, terms.budget, REACH):
            timed[place].append(_paced(one, terms))
        else:
            far[place].append(one)
            columns[place] = [c for c in columns[place] if 2 * c.macs < one.macs]
    return [c for some in timed for c in some], [c for some in far for c in some]


def _visits(columns: int, size: int) -> list[int]:
    """Return the order in which families are asked for one more model: those that may race first,
    and whenever they are asked again as many others."""
    turns = [(turn + place // size, place) for turn in range(SIZES) for place in range(columns)]
    return [place for _, place in sorted(turns)]


def _next(members: Sequence[Candidate], done: float, terms: Terms) -> Candidate | None:
    """Return the model of a family whose size suits the time best, if it trains at `done`
    multiply-adds of the forward pass in a second."""
    if not members:
        return None
    goal = done * terms.seconds / (terms.images * passes(terms.images, members[0].family))

    def suits(one: Candidate) -> float:
        return both_sides(one, terms.both) - MISFIT * abs(math.log((one.macs + 1) / goal))

    return max(members, key=suits)


def time_exported(
    timed: Sequence[Candidate], terms: Terms, apart: Apart, say: Say
) -> tuple[list[Candidate], list[Candidate]]:
    """Time as exported what torch finds too slow: all that may race, and those over the limit.

    Whatever there was no time for stays: it is timed before it is trained in full.
    """
    slow = [c for c in timed if not _within(c, terms.budget, 1.0)]
    slow.sort(key=lambda c: -_merit(c, terms))
    found = {
        c.name: c
        for c in as_exported(
            slow, terms.budget, seconds=TIMING * terms.seconds, apart=apart, say=say
        )
    }
    known = [found.get(c.name, c) for c in timed]
    over = [c for c in known if c.name in found and not _within(c, terms.budget, 1.0)]
    return [c for c in known if c not in over], over


def _within(one: Candidate, budget: Budget, reach: float) -> bool:
    """Tell whether the latency is at most `reach` times what the limit leaves to it, if there is
    one."""
    room = budget.room_s(one.image, one.channels)
    return room is None or (one.latency_s or 0.0) <= reach * room


def _last_resort(
    counted: Counted, over: list[Candidate], terms: Terms
) -> tuple[list[Candidate], list[Candidate]]:
    """Return the small end of each family, when the spread missed the latency; else the least slow.

    A missed budget still leaves the best model that there is.
    """
    budget = terms.budget
    until = time.perf_counter() + max(PATIENCE_S, terms.seconds / 10)
    rest = takewhile(lambda _: time.perf_counter() < until, (c for c, _ in counted.rest))
    more = [c for c in rest if budget.allows(params=c.params, macs=c.macs)]
    tried, seen = {c.name for c in over}, Counter[str]()
    found = []
    for one in sorted([*counted.allowed, *more], key=lambda c: c.macs):
        if one.name in tried or seen[one.family] == 3:
            continue
        if time.perf_counter() > until + PATIENCE_S:
            break
        seen[one.family] += 1
        one = replace(one, latency_s=folded_latency(one, budget).quickest_s)
        (found if _within(one, budget, REACH) else over).append(one)
    if not found:
        found = sorted(over, key=lambda c: c.with_resize_s(budget) or 0.0)[:LAST_RESORT]
        over = [c for c in over if c not in found]
    return [_paced(c, terms) for c in found], over


def _paced(one: Candidate, terms: Terms) -> Candidate:
    """Return the candidate with its training rate; its methods may take more than the bare
    model."""
    found = paced(one, batch=terms.batch_of(one), device=terms.device)
    return replace(found, rate=(found.rate or 0.0) / burden(one.config, terms.methods))


# ---- choose ----------------------------------------------------------------------------


def _prior(one: Candidate) -> float:
    """Return the prior of a family, or of the host of a network of maps, of boxes or of frames;
    pretrained weights count more than any without."""
    return prior(learns_as(one.config)) + (one.pretrained is not None)


def _worth(one: Candidate, terms: Terms) -> float:
    return worth(one, terms.images, terms.seconds, terms.both)


def _merit(one: Candidate, terms: Terms) -> float:
    """Return what is expected of a candidate, before it has learned anything."""
    return _prior(one) + _worth(one, terms)


def _by_family(pool: Iterable[Candidate]) -> list[list[Candidate]]:
    """Return the models of each family, the most promising family first."""
    members: dict[str, list[Candidate]] = {}
    for one in pool:
        members.setdefault(_column(one), []).append(one)
    return sorted(members.values(), key=lambda some: -_prior(some[0]))


def _column(one: Candidate) -> str:
    """Candidates compete for places within their family, pretrained ones among themselves, and
    networks of maps with those of the same host and head."""
    host, head = (one.model.get(name, {}).get("kind", "") for name in ("host", "decoder"))
    return f"{one.family}{host}{head}" + ("*" if one.pretrained else "")


def _chosen(timed: Sequence[Candidate], terms: Terms) -> list[Candidate]:
    """Return the best suited of each family in turns, so that no family is left out early.

    Whoever is known to keep the latency goes before whoever may.
    """
    columns: dict[str, list[Candidate]] = {}
    for one in sorted(timed, key=lambda c: -_worth(c, terms)):
        columns.setdefault(_column(one), []).append(one)
    ordered = sorted(columns.values(), key=lambda c: -_merit(c[0], terms))
    longest = max(len(column) for column in ordered)
    turns = [column[i] for i in range(longest) for column in ordered if i < len(column)]
    certain = sorted(turns, key=lambda c: not _within(c, terms.budget, 1.0))
    return certain[: terms.size]


def _nothing(pool: Sequence[Candidate], terms: Terms) -> BudgetError:
    budget = terms.budget
    if not pool and terms.methods:
        names = ", ".join(kind_of(type(method)) for method in terms.methods)
        return BudgetError(
            f"no model for images of {terms.image_size[0]}x{terms.image_size[1]} takes the methods "
            f"{names}: leave one out, or give images whose sides have more divisors"
        )
    if not pool:
        return BudgetError(
            "no model can be built for these images: give images of 8 pixels or more"
        )
    closest = min(pool, key=lambda c: budget.excess(params=c.params, macs=c.macs))
    return BudgetError(
        f"no model keeps the budget ({budget.spoken()}): of {len(pool)} the closest is "
        f"{closest.name} with {closest.figures()}; allow that much"
    )
